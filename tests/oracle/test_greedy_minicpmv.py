"""Greedy tokens of MiniCPM-V-2.6 equal the composed reference's, whatever the engine does.

transformers has no class of the family: the reference is its SigLIP and its Qwen2 with the glue
between written anew (``minicpmv_reference``). It is given the pixels that our own preprocessing
made (its equality with Pillow's is tested where it lives), so that only the models are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_backends import DECODER, TOWER, Attention
from family_helpers import loaded, model_context, open_folder, random_image
from greedy import Comparison
from minicpmv_reference import MiniCPMVReference
from PIL import Image
from tiny_checkpoints import make_minicpmv

from sensorium import LLM, SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.types import MediaShape
from sensorium_media_image.families.minicpmv import MiniCPMVFamily, MiniCPMVImages

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=12, ignore_eos=True)
ENGINES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "chunks of 16": {"max_num_batched_tokens": 16},
    "no prefix cache, chunks of 64": {
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 64,
    },
    "one at a time": {"max_num_seqs": 1},
}
TAG = "(<image>./</image>)"
#: A prompt, and the (height, width) of its images.
Prompt = tuple[str, list[tuple[int, int]]]
PROMPTS: list[Prompt] = [
    (f"<|im_start|>user\nwhat is {TAG}?<|im_end|>\n<|im_start|>assistant\n", [(90, 120)]),
    (f"the {TAG} and the {TAG} differ in", [(60, 200), (150, 80)]),
    ("no image at all", []),
    (f"{TAG}first{TAG}{TAG}and then.", [(56, 56), (250, 250), (31, 45)]),
    ("a", []),
    (f"what is this? {TAG} answer:", [(120, 90)]),
    (f"<|im_start|>user\nwhat is {TAG}? At more length, please.<|im_end|>\n", [(90, 120)]),
]


def images(sizes: list[tuple[int, int]]) -> list[Any]:
    """One image in three occurs in several prompts."""
    return [random_image(*size, seed=size[0] % 3) for size in sizes]


def prompts() -> list[dict[str, Any]]:
    """``PROMPTS`` as a caller gives them."""
    return [
        {"prompt": text, **({"multi_modal_data": {"image": images(sizes)}} if sizes else {})}
        for text, sizes in PROMPTS
    ]


class Comparer:
    """Holds answers of a folder's model against the reference's."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = MiniCPMVReference(folder, dtype)
        checkpoint = open_folder(folder)
        context = model_context(MiniCPMVFamily(), checkpoint.config, checkpoint.processor)
        self.adapter = MiniCPMVImages(replace(context, tokenizer=Tokenizer.load(folder)))

    def embeds(self, pixels: Any) -> torch.Tensor:
        """An image's rows, of the views that the engine's frontend makes."""
        options = self.adapter.options({})
        plan = self.adapter.plan(MediaShape(pixels.shape[:2]), options)
        item = self.adapter.process(loaded(pixels), plan, options)["tower"]
        views = [*item["view"], *item.get("slices", ())]
        return torch.cat(
            [self.model.embeds_of(Image.fromarray(np.asarray(view))) for view in views]
        )

    def logits(self, prompt: Prompt, output: Any) -> torch.Tensor:
        """(answer, vocabulary): the reference's, each row before its token."""
        text, sizes = prompt
        ids = self.model.token_ids(text, [(width, height) for height, width in sizes])
        assert list(output.prompt_token_ids) == ids, text
        answer = output.outputs[0].token_ids
        features = [self.embeds(pixels) for pixels in images(sizes)]
        return self.model.logits([*ids, *answer], features)[len(ids) - 1 : -1]

    def compare(self, outputs: Sequence[Any]) -> Comparison:
        """Answers to ``PROMPTS``, in this order and again."""
        comparison = Comparison()
        for prompt, output in zip([*PROMPTS, *PROMPTS], outputs, strict=True):
            comparison.add(self.logits(prompt, output), output.outputs[0].token_ids, prompt[0])
        return comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    return make_minicpmv(tmp_path_factory.mktemp("minicpmv"), seed=7)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Comparer:
    """The same weights in transformers' classes."""
    return Comparer(folder)


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_greedy_tokens_equal_the_references(
    folder: Path, reference: Comparer, options: dict[str, Any], attention: Attention
) -> None:
    given = prompts()
    options = {"device": "cpu", "dtype": "float32", "max_model_len": 256, **options}
    with LLM(folder, trust_remote_code=True, **options) as llm:
        first = llm.generate(given, GREEDY, use_tqdm=False)
        again = llm.generate(given, GREEDY, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER)
    cached = sum(output.num_cached_tokens for output in again)
    assert (cached > 0) == options.get("enable_prefix_caching", True)
    print(reference.compare([*first, *again]).report())


def test_the_answer_depends_on_the_image(reference: Comparer) -> None:
    """Else the comparison above would prove nothing."""
    ids = reference.model.token_ids(f"what is {TAG}?", [(80, 80)])
    logits = [
        reference.model.logits(ids, [reference.embeds(random_image(80, 80, seed))])[-1]
        for seed in range(2)
    ]
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [16, 2048])
def test_greedy_tokens_on_the_gpu(folder: Path, reference: Comparer, chunk: int) -> None:
    """The same comparison with the engine on CUDA and the reference on the CPU."""
    given = prompts()
    options: dict[str, Any] = {"dtype": "float32", "max_model_len": 256}
    options |= {"gpu_memory_utilization": 0.3, "max_num_batched_tokens": chunk}
    with LLM(folder, device="cuda", **options) as llm:
        outputs = llm.generate([*given, *given], GREEDY, use_tqdm=False)
        llm.check_integrity()
    print(reference.compare(outputs).report())


@pytest.mark.gpu
def test_bfloat16_tokens_on_the_gpu_are_the_references_best(
    tmp_path: Path, attention: Attention
) -> None:
    """By CUDA's ops and without them, within twice what bfloat16 does to the reference itself."""
    folder = make_minicpmv(tmp_path, seed=7, dtype=torch.bfloat16, wide=True)
    exact, rounded = (Comparer(folder, dtype) for dtype in (torch.float32, torch.bfloat16))
    options: dict[str, Any] = {"max_num_batched_tokens": 64, "gpu_memory_utilization": 0.3}
    options |= {"max_model_len": 256, "engine_process": False}  # the ops are counted here
    with LLM(folder, device="cuda", dtype="bfloat16", **options) as llm:
        outputs = llm.generate(prompts(), GREEDY, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER, device="cuda")
    gaps, errors = [], []
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        answer = output.outputs[0].token_ids
        logits, near = (comparer.logits(prompt, output) for comparer in (exact, rounded))
        chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        gaps.append(float((logits.amax(-1) - chosen).max()))
        errors.append(float((logits - near.float()).abs().max()))
    print(f"furthest from the best {max(gaps):.3f}, bfloat16's own error {max(errors):.3f}")
    assert max(gaps) < 2 * max(errors)
