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
from attention_backends import Attention, engines
from family_helpers import loaded, make_adapter, open_folder, random_image
from greedy import Remembered
from greedy_images import (
    ENGINES,
    Prompt,
    answer_twice,
    check_bfloat16_on_the_gpu,
    check_on_the_gpu,
    compare,
    images,
)
from tiny_onevision import make_onevision
from transformers import LlavaOnevisionForConditionalGeneration

from sensorium.types import MediaShape
from sensorium_media_image.families.onevision import OneVisionFamily, OneVisionImages

PROMPTS: list[Prompt] = [
    ("<|im_start|>user <image>\nwhat is it?<|im_end|><|im_start|>assistant\n", [(90, 120)]),
    ("the <image> and the <image> differ in", [(60, 200), (150, 80)]),
    ("no image at all", []),
    ("<image>first<image><image>and then.", [(45, 45), (250, 250), (31, 45)]),
    ("a", []),
    ("what is this? <image> answer:", [(120, 90)]),
    ("<|im_start|>user <image>\nwhat is it? At more length, please.<|im_end|>", [(90, 120)]),
]


class Comparer:
    """Holds answers of a folder's model against transformers'."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self.model = model.eval()
        self.remembered = Remembered()
        self.adapter = make_adapter(OneVisionImages, OneVisionFamily(), open_folder(folder))

    def views(self, pixels: Any) -> torch.Tensor:
        """(1 + tiles, 3, S, S) float32, normalised, of the pixels that the engine would see."""
        plan = self.adapter.plan(MediaShape(pixels.shape[:2]), {})
        views = self.adapter.process(loaded(pixels), plan, {})["tower"]["views"]
        return (views.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5

    def logits_of(
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

    def logits(self, prompt: Prompt, output: Any) -> torch.Tensor:
        """(answer, vocabulary), each row before its token."""
        ids = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        given = (prompt[0], *prompt[1], *ids)
        logits = self.remembered.get(given, lambda: self.logits_of(ids, images(prompt[1])))
        return logits[-len(output.outputs[0].token_ids) - 1 : -1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    return make_onevision(tmp_path_factory.mktemp("onevision"), seed=7)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Comparer:
    """The same weights in transformers."""
    return Comparer(folder)


@engines(ENGINES, plain=("defaults", "chunks of 16"))
def test_greedy_tokens_equal_transformers(
    folder: Path, reference: Comparer, options: dict[str, Any], attention: Attention
) -> None:
    outputs = answer_twice(folder, PROMPTS, {"max_model_len": 384, **options}, attention)
    print(compare(reference, [*PROMPTS, *PROMPTS], outputs).report())


def test_the_answer_depends_on_the_image(reference: Comparer) -> None:
    """Else the comparison above would prove nothing."""
    image_id = reference.model.config.image_token_id
    num_tokens = reference.adapter.plan(MediaShape((80, 80)), {}).num_tokens
    ids = [*[image_id] * num_tokens, 5, 6]
    logits = [reference.logits_of(ids, [random_image(80, 80, seed)])[-1] for seed in range(2)]
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [16, 2048])
def test_greedy_tokens_on_the_gpu(folder: Path, reference: Comparer, chunk: int) -> None:
    options = {"max_model_len": 384, "max_num_batched_tokens": chunk}
    check_on_the_gpu(folder, reference, PROMPTS, **options)


@pytest.mark.gpu
def test_bfloat16_tokens_on_the_gpu_are_the_references_best(
    tmp_path: Path, attention: Attention
) -> None:
    folder = make_onevision(tmp_path, seed=7, dtype=torch.bfloat16, wide=True)
    check_bfloat16_on_the_gpu(folder, PROMPTS, Comparer, attention, max_model_len=384)
