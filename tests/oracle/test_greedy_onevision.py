"""Greedy tokens of LLaVA-OneVision equal transformers', whatever the engine does.

The reference is given the pixels that our own preprocessing made (its equality with
transformers' is tested where it lives), so that only the models are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_backends import DECODER, TOWER, Attention
from family_helpers import loaded, make_adapter, open_folder, random_image
from greedy import Comparison
from tiny_onevision import make_onevision
from transformers import LlavaOnevisionForConditionalGeneration

from sensorium import LLM, SamplingParams
from sensorium.types import MediaShape
from sensorium_media_image.families.onevision import OneVisionFamily, OneVisionImages

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
#: A prompt, and the (height, width) of its images.
Prompt = tuple[str, list[tuple[int, int]]]
PROMPTS: list[Prompt] = [
    ("<|im_start|>user <image>\nwhat is it?<|im_end|><|im_start|>assistant\n", [(90, 120)]),
    ("the <image> and the <image> differ in", [(60, 200), (150, 80)]),
    ("no image at all", []),
    ("<image>first<image><image>and then.", [(45, 45), (250, 250), (31, 45)]),
    ("a", []),
    ("what is this? <image> answer:", [(120, 90)]),
    ("<|im_start|>user <image>\nwhat is it? At more length, please.<|im_end|>", [(90, 120)]),
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
    """Holds answers of a folder's model against transformers'."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self.model = model.eval()
        self.adapter = make_adapter(OneVisionImages, OneVisionFamily(), open_folder(folder))

    def views(self, pixels: Any) -> torch.Tensor:
        """(1 + tiles, 3, S, S) float32, normalised, of the pixels that the engine would see."""
        plan = self.adapter.plan(MediaShape(pixels.shape[:2]), {})
        views = self.adapter.process(loaded(pixels), plan, {})["tower"]["views"]
        return (views.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5

    def logits(
        self, ids: Sequence[int], given: Sequence[np.ndarray[Any, np.dtype[np.uint8]]]
    ) -> torch.Tensor:
        """(len(ids), vocabulary)."""
        inputs: dict[str, torch.Tensor] = {"input_ids": torch.tensor([list(ids)])}
        if given:
            views = [self.views(pixels) for pixels in given]
            padded = torch.zeros(len(views), max(map(len, views)), *views[0].shape[1:])
            for i, view in enumerate(views):
                padded[i, : len(view)] = view
            inputs["pixel_values"] = padded.to(self.model.dtype)
            inputs["image_sizes"] = torch.tensor([pixels.shape[:2] for pixels in given])
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**inputs).logits[0]
        return logits

    def answer_logits(self, prompt: Prompt, output: Any) -> torch.Tensor:
        """(answer, vocabulary), each row before its token."""
        ids = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        return self.logits(ids, images(prompt[1]))[-len(output.outputs[0].token_ids) - 1 : -1]

    def compare(self, outputs: Sequence[Any]) -> Comparison:
        """Answers to ``PROMPTS``, in this order and again."""
        comparison = Comparison()
        for prompt, output in zip([*PROMPTS, *PROMPTS], outputs, strict=True):
            logits = self.answer_logits(prompt, output)
            comparison.add(logits, output.outputs[0].token_ids, prompt[0])
        return comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    return make_onevision(tmp_path_factory.mktemp("onevision"), seed=7)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Comparer:
    """The same weights in transformers."""
    return Comparer(folder)


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_greedy_tokens_equal_transformers(
    folder: Path, reference: Comparer, options: dict[str, Any], attention: Attention
) -> None:
    given = prompts()
    options = {"device": "cpu", "dtype": "float32", "max_model_len": 384, **options}
    with LLM(folder, **options) as llm:
        first = llm.generate(given, GREEDY, use_tqdm=False)
        again = llm.generate(given, GREEDY, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER)
    cached = sum(output.num_cached_tokens for output in again)
    assert (cached > 0) == options.get("enable_prefix_caching", True)
    print(reference.compare([*first, *again]).report())


def test_the_answer_depends_on_the_image(reference: Comparer) -> None:
    """Else the comparison above would prove nothing."""
    image_id = reference.model.config.image_token_id
    num_tokens = reference.adapter.plan(MediaShape((80, 80)), {}).num_tokens
    ids = [*[image_id] * num_tokens, 5, 6]
    logits = [reference.logits(ids, [random_image(80, 80, seed)])[-1] for seed in range(2)]
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [16, 2048])
def test_greedy_tokens_on_the_gpu(folder: Path, reference: Comparer, chunk: int) -> None:
    """The same comparison with the engine on CUDA and the reference on the CPU."""
    given = prompts()
    options: dict[str, Any] = {"dtype": "float32", "max_model_len": 384}
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
    folder = make_onevision(tmp_path, seed=7, dtype=torch.bfloat16, wide=True)
    exact, rounded = (Comparer(folder, dtype) for dtype in (torch.float32, torch.bfloat16))
    options: dict[str, Any] = {"max_num_batched_tokens": 64, "gpu_memory_utilization": 0.3}
    options |= {"max_model_len": 384, "engine_process": False}  # the ops are counted here
    with LLM(folder, device="cuda", dtype="bfloat16", **options) as llm:
        outputs = llm.generate(prompts(), GREEDY, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER, device="cuda")
    gaps, errors = [], []
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        logits, near = (comparer.answer_logits(prompt, output) for comparer in (exact, rounded))
        answer = torch.tensor(output.outputs[0].token_ids)
        chosen = logits.gather(1, answer[:, None])[:, 0]
        gaps.append(float((logits.amax(-1) - chosen).max()))
        errors.append(float((logits - near.float()).abs().max()))
    print(f"furthest from the best {max(gaps):.3f}, bfloat16's own error {max(errors):.3f}")
    assert max(gaps) < 2 * max(errors)
