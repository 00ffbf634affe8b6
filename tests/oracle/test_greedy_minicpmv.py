"""Greedy tokens of MiniCPM-V-2.6 equal the composed reference's, whatever the engine does.

transformers has no class of the family: the reference is its SigLIP and its Qwen2 with the glue
between written anew (``minicpmv_reference``). It is given the pixels that our own preprocessing
made (its equality with Pillow's is tested where it lives), so that only the models are compared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_backends import Attention, engines
from family_helpers import loaded, model_context, open_folder, random_image
from greedy import Remembered
from greedy_images import (
    ENGINES,
    Prompt,
    answer_by_the_server,
    answer_twice,
    check_bfloat16_on_the_gpu,
    check_on_the_gpu,
    compare,
    images,
)
from minicpmv_reference import MiniCPMVReference
from PIL import Image
from tiny_checkpoints import make_minicpmv

from sensorium.tokenizer import Tokenizer
from sensorium.types import MediaShape
from sensorium_media_image.families.minicpmv import MiniCPMVFamily, MiniCPMVImages

TAG = "(<image>./</image>)"
PROMPTS: list[Prompt] = [
    (f"<|im_start|>user\nwhat is {TAG}?<|im_end|>\n<|im_start|>assistant\n", [(90, 120)]),
    (f"the {TAG} and the {TAG} differ in", [(60, 200), (150, 80)]),
    ("no image at all", []),
    (f"{TAG}first{TAG}{TAG}and then.", [(56, 56), (250, 250), (31, 45)]),
    ("a", []),
    (f"what is this? {TAG} answer:", [(120, 90)]),
    (f"<|im_start|>user\nwhat is {TAG}? At more length, please.<|im_end|>\n", [(90, 120)]),
]


class Comparer:
    """Holds answers of a folder's model against the reference's."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = MiniCPMVReference(folder, dtype)
        self.remembered = Remembered()
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
        given = (prompt[0], *prompt[1], *output.prompt_token_ids, *output.outputs[0].token_ids)
        return self.remembered.get(given, lambda: self._logits(prompt, output))

    def _logits(self, prompt: Prompt, output: Any) -> torch.Tensor:
        text, sizes = prompt
        ids = self.model.token_ids(text, [(width, height) for height, width in sizes])
        assert list(output.prompt_token_ids) == ids, text
        answer = output.outputs[0].token_ids
        features = [self.embeds(pixels) for pixels in images(sizes)]
        return self.model.logits([*ids, *answer], features)[len(ids) - 1 : -1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    return make_minicpmv(tmp_path_factory.mktemp("minicpmv"), seed=7)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Comparer:
    """The same weights in transformers' classes."""
    return Comparer(folder)


@engines(ENGINES, plain=("defaults", "chunks of 16"))
def test_greedy_tokens_equal_the_references(
    folder: Path, reference: Comparer, options: dict[str, Any], attention: Attention
) -> None:
    options = {"trust_remote_code": True, "max_model_len": 256, **options}
    outputs = answer_twice(folder, PROMPTS, options, attention)
    print(compare(reference, [*PROMPTS, *PROMPTS], outputs).report())


def test_greedy_tokens_by_the_server(folder: Path, reference: Comparer) -> None:
    """Chats, which the checkpoint's template puts into words."""
    questions: list[Prompt] = [
        ("what is this?", [(90, 120)]),
        ("no image at all", []),
        ("and these", [(60, 200), (150, 80)]),
    ]
    outputs = answer_by_the_server(folder, questions, max_model_len=256)
    written: list[Prompt] = []
    for question, sizes in questions:
        text = "\n".join([*[TAG] * len(sizes), question])
        written.append((f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", sizes))
    print(compare(reference, written, outputs).report())


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
    options = {"max_model_len": 256, "max_num_batched_tokens": chunk}
    check_on_the_gpu(folder, reference, PROMPTS, **options)


@pytest.mark.gpu
def test_bfloat16_tokens_on_the_gpu_are_the_references_best(
    tmp_path: Path, attention: Attention
) -> None:
    folder = make_minicpmv(tmp_path, seed=7, dtype=torch.bfloat16, wide=True)
    check_bfloat16_on_the_gpu(folder, PROMPTS, Comparer, attention, max_model_len=256)
