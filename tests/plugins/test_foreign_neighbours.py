"""The foreign kind beside others: another kind in the same prompt, an engine without it."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from greedy import Comparison
from scents import DISTRIBUTION, MODULE, ROSE, SOURCE, TAR, embedding, places
from tiny_checkpoints import make_qwen2, make_qwen25vl
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from sensorium import LLM, SamplingParams
from sensorium.errors import PluginError

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=12, ignore_eos=True)
PROMPT = "One <|vision_start|><|image_pad|><|vision_end|> smells of <scent>, the other of <scent>."


def test_a_scent_beside_an_image(installed: Any, tmp_path: Path) -> None:
    """A family with positions on several axes counts a foreign item's tokens as text."""
    folder = make_qwen25vl(tmp_path, seed=7)
    pixels = np.random.default_rng(2).integers(0, 255, (56, 84, 3), dtype=np.uint8)
    prompt: Any = {
        "prompt": PROMPT,
        "multi_modal_data": {"image": pixels, "scent": [TAR, ROSE]},
    }
    with (
        installed(DISTRIBUTION, SOURCE, MODULE),
        LLM(folder, dtype="float32", max_model_len=256, max_num_batched_tokens=16) as llm,
    ):
        (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)
        llm.check_integrity()

    answer = output.outputs[0].token_ids
    ids = torch.tensor([[*output.prompt_token_ids, *answer]])
    reference: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = AutoImageProcessor.from_pretrained(folder, backend="pil")(
        images=pixels, return_tensors="pt"
    )
    is_image = ids == reference.config.image_token_id
    is_image[:, len(output.prompt_token_ids) :] = False
    assert is_image.sum() == 6
    with torch.inference_mode():
        embeds = reference.get_input_embeddings()(ids).clone()
        features = reference.model.get_image_features(**inputs).pooler_output
        embeds[is_image] = torch.cat(list(features))
        rows = torch.cat([embedding(TAR), embedding(ROSE)])
        embeds[0, places(output.prompt_token_ids, 2)] = rows
        positions, _ = reference.model.get_rope_index(
            ids, is_image.int(), image_grid_thw=inputs["image_grid_thw"]
        )
        logits = reference(inputs_embeds=embeds, position_ids=positions).logits[0]
    Comparison().add(logits[-len(answer) - 1 : -1], answer, "an image and two scents")


def test_two_engines_of_one_process_have_plugins_of_their_own(
    installed: Any, tmp_path: Path
) -> None:
    """No state is shared: what was installed when an engine started is what it serves."""
    folder = make_qwen2(tmp_path, seed=5)
    prompt: Any = {"prompt": "<scent>", "multi_modal_data": {"scent": ROSE}}
    options: dict[str, Any] = {"dtype": "float32", "max_model_len": 64}

    def is_told(llm: LLM) -> None:
        with pytest.raises(PluginError, match="No installed plugin serves the kind 'scent'"):
            llm.generate(prompt, GREEDY, use_tqdm=False)

    with LLM(folder, **options) as before:
        with installed(DISTRIBUTION, SOURCE, MODULE), LLM(folder, **options) as during:
            is_told(before)
            assert during.generate(prompt, GREEDY, use_tqdm=False)[0].outputs[0].token_ids
        is_told(before)
    with LLM(folder, **options) as after:
        is_told(after)


def _plugin(folder: Path, name: str, source: str) -> Path:
    """A module that brings a kind called scent, or fails to."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(source)
    return folder


def test_a_request_that_needs_what_failed_is_told_the_cause(installed: Any, tmp_path: Path) -> None:
    model = make_qwen2(tmp_path / "model", seed=5)
    broken = _plugin(tmp_path / "broken", "broken_scents", "import no_such_nose")
    prompt: Any = {"prompt": "<scent>", "multi_modal_data": {"scent": ROSE}}
    with (
        installed("broken-scents", broken, "broken_scents"),
        LLM(model, dtype="float32", max_model_len=64) as llm,
    ):
        with pytest.raises(PluginError, match="broken-scents:main: importing broken_scents raised"):
            llm.generate(prompt, GREEDY, use_tqdm=False)
        assert llm.generate("Words only", GREEDY, use_tqdm=False)[0].finished


def test_a_request_for_what_two_claim_is_told_and_a_choice_mends_it(
    installed: Any, tmp_path: Path
) -> None:
    model = make_qwen2(tmp_path / "model", seed=5)
    rival = """
        from sensorium.plugins import hookimpl
        from scent_for_sensorium.scent import Scent

        api = 2

        class Stench(Scent):
            pass

        @hookimpl
        def sensorium_media_kinds():
            return [Stench]
    """
    source = _plugin(tmp_path / "rival", "rival_scents", textwrap.dedent(rival))
    prompt: Any = {"prompt": "<scent>", "multi_modal_data": {"scent": ROSE}}
    options: dict[str, Any] = {"dtype": "float32", "max_model_len": 64}
    with (
        installed(DISTRIBUTION, SOURCE, MODULE),
        installed("rival-scents", source, "rival_scents"),
    ):
        with LLM(model, **options) as llm:
            told = f"kind:scent is claimed by rival-scents and {DISTRIBUTION}; choose one"
            with pytest.raises(PluginError, match=told):
                llm.generate(prompt, GREEDY, use_tqdm=False)
            assert llm.generate("Words only", GREEDY, use_tqdm=False)[0].finished
        with LLM(model, plugin_choices={"kind:scent": DISTRIBUTION}, **options) as llm:
            assert llm.generate(prompt, GREEDY, use_tqdm=False)[0].finished
