"""What the interface's types promise to later kinds works, end to end, with a plugin of the tests.

Items of several sources, items found inside others, several encoders for one item, one encoder
for two kinds, several spans for one item that overlap with disjoint masks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from greedy import Comparison
from safetensors.torch import save_file
from tiny_checkpoints import make_qwen2
from transformers import AutoModelForCausalLM

from sensorium import LLM, SamplingParams
from sensorium.errors import ConfigError

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=10, ignore_eos=True)
ENGINES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "chunks of 5": {"max_num_batched_tokens": 5, "max_num_seqs": 2},
    "no prefix cache": {"enable_prefix_caching": False},
}
Duet = tuple[Any, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2(tmp_path_factory.mktemp("model"), seed=11)


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoders' weights: one file for both."""
    draw = torch.Generator().manual_seed(3)
    names = {"weight": (64, 4), "bias": (64,)}
    weights = {
        f"{side}.{name}": torch.randn(shape, generator=draw)
        for side in ("left", "right")
        for name, shape in names.items()
    }
    file = tmp_path_factory.mktemp("ears") / "ears.safetensors"
    save_file(weights, file)
    return file


@pytest.fixture(scope="module")
def duets(installed: Any) -> Iterator[None]:
    with installed("duets", Path(__file__).with_name("duets"), "duets_plugin"):
        yield


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def duet(num_notes: int, seed: int) -> Duet:
    melodies = np.random.default_rng(seed).normal(0, 1, (2, num_notes, 4)).astype(np.float32)
    return melodies[0], melodies[1]


def embedding(melodies: Duet, ears: Path, *, alternating: bool) -> torch.Tensor:
    """A duet's rows as they must stand in the prompt, its beat's behind them."""
    from safetensors.torch import load_file

    weights = load_file(ears)
    left, right, beat = (
        torch.nn.functional.linear(
            torch.from_numpy(notes), weights[f"{side}.weight"], weights[f"{side}.bias"]
        )
        for side, notes in (
            ("left", melodies[0]),
            ("right", melodies[1]),
            ("left", np.mean(melodies, axis=(0, 1))[None]),
        )
    )
    both = torch.stack([left, right], 1).flatten(0, 1) if alternating else torch.cat([left, right])
    return torch.cat([both, beat])


@pytest.mark.parametrize("architecture", ["DuetForCausalLM", "Qwen2ForCausalLM"])
@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_a_plugin_uses_all_that_the_types_carry(
    folder: Path,
    ears: Path,
    duets: None,
    reference: Any,
    architecture: str,
    options: dict[str, Any],
) -> None:
    first, second = duet(3, seed=1), duet(6, seed=2)
    text = "Listen to <duet> and then to <duet>. Which of them"
    given: list[list[Duet]] = [
        [first, second],
        [second, first],
        [first, first],
        [first[::-1], first],
    ]
    prompts: list[Any] = [{"prompt": text, "multi_modal_data": {"duet": pair}} for pair in given]
    with LLM(
        folder,
        dtype="float32",
        max_model_len=128,
        hf_overrides={"architectures": [architecture]},
        plugin_options={"duets": {"weights": ears}},
        **options,
    ) as llm:
        outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
        chat = [{"type": "duet", "duet": list(second)}, {"type": "text", "text": "Again?"}]
        outputs += llm.chat([{"role": "user", "content": chat}], GREEDY, use_tqdm=False)
        outputs += llm.generate(prompts, GREEDY, use_tqdm=False)
        llm.check_integrity()
    assert outputs[0].metrics.num_media_items == 4  # two duets, two beats
    alternating = architecture == "DuetForCausalLM"
    for output, pair in zip(outputs, [*given, [second], *given], strict=True):
        answer = output.outputs[0].token_ids
        ids = torch.tensor([[*output.prompt_token_ids, *answer]])
        rows = torch.cat([embedding(melodies, ears, alternating=alternating) for melodies in pair])
        places = [i for i, token in enumerate(output.prompt_token_ids) if token == 0]
        with torch.inference_mode():
            embeds = reference.get_input_embeddings()(ids).clone()
            embeds[0, places] = rows
            logits = reference(inputs_embeds=embeds).logits[0]
        Comparison().add(logits[-len(answer) - 1 : -1], answer, f"{len(pair)} duets")


def test_options_for_an_unknown_plugin_are_refused(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match="plugin_options has an entry for 'nobody'; installed are"
    ):
        LLM(folder, plugin_options={"nobody": {}})
