"""Conversations with images: by the checkpoint's template, and by the family's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from family_helpers import random_image
from PIL import Image
from tiny_checkpoints import LLAVA_IMAGE_ID, QWEN_IDS, make_llava, make_qwen25vl

from sensorium import LLM, SamplingParams

ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1)
START, PAD, END = (QWEN_IDS[f"<|{name}|>"] for name in ("vision_start", "image_pad", "vision_end"))


def conversation() -> list[dict[str, Any]]:
    images = [Image.fromarray(random_image(56, size, size)) for size in (56, 112)]
    return [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "one"},
                {"type": "image_pil", "image_pil": images[0]},
                {"type": "text", "text": "two"},
                {"type": "image_pil", "image_pil": images[1]},
                {"type": "text", "text": "three"},
            ],
        },
        {"role": "assistant", "content": "four"},
        {"role": "user", "content": "five"},
    ]


#: What the prompts are, with each image as one placeholder.
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_TURNS = (
    f"<|im_start|>user\none{QWEN_IMAGE}two{QWEN_IMAGE}three<|im_end|>\n"
    "<|im_start|>assistant\nfour<|im_end|>\n"
    "<|im_start|>user\nfive<|im_end|>\n<|im_start|>assistant\n"
)
CASES: list[tuple[Callable[..., Path], bool, str]] = [
    (make_qwen25vl, True, QWEN_TURNS),
    (
        make_qwen25vl,
        False,
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{QWEN_TURNS}",
    ),
    (
        make_llava,
        True,
        "USER: one<image>\ntwo<image>\nthree ASSISTANT: four USER: five ASSISTANT:",
    ),
    (
        make_llava,
        False,
        "USER: <image>\n<image>\none two three ASSISTANT: four USER: five ASSISTANT:",
    ),
]


@pytest.mark.parametrize(("make", "has_template", "expected"), CASES)
def test_images_stand_where_the_template_puts_them(
    make: Callable[..., Path], has_template: bool, expected: str, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    if not has_template:
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        del settings["chat_template"]
        path.write_text(json.dumps(settings))
    with LLM(folder, dtype="float32", max_model_len=512) as llm:
        (output,) = llm.chat(conversation(), ONE_TOKEN, use_tqdm=False)
    assert output.prompt == expected


@pytest.mark.parametrize(("make", "run_lengths"), [(make_qwen25vl, [4, 8]), (make_llava, [16, 16])])
def test_each_image_takes_its_own_tokens(
    make: Callable[..., Path], run_lengths: list[int], tmp_path: Path
) -> None:
    with LLM(make(tmp_path), dtype="float32", max_model_len=512) as llm:
        (output,) = llm.chat(conversation(), ONE_TOKEN, use_tqdm=False)
    image_id = PAD if make is make_qwen25vl else LLAVA_IMAGE_ID
    ids = list(output.prompt_token_ids)
    assert ids.count(image_id) == sum(run_lengths)
    first = ids.index(image_id)
    assert ids[first : first + run_lengths[0]] == [image_id] * run_lengths[0]
    assert ids[first + run_lengths[0]] != image_id
    if make is make_qwen25vl:
        assert (ids[first - 1], ids[first + run_lengths[0]]) == (START, END)


def test_the_generic_placeholder_stands_for_the_family_s_own(tmp_path: Path) -> None:
    image = random_image(56, 56, 1)
    own = {"prompt": f"a{QWEN_IMAGE}b", "multi_modal_data": {"image": image}}
    generic = {"prompt": "a<image>b", "multi_modal_data": {"image": image}}
    with LLM(make_qwen25vl(tmp_path), dtype="float32", max_model_len=512) as llm:
        one, other = llm.generate([own, generic], ONE_TOKEN, use_tqdm=False)
    assert one.prompt_token_ids == other.prompt_token_ids
