"""Threat 23: one bad request takes the engine down for all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sensorium import LLM, RequestError, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


def with_image(value: Any, prompt: str = "<image> What is it?") -> dict[str, Any]:
    return {"prompt": prompt, "multi_modal_data": {"image": value}}


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = Image.new("RGB", (56, 56), (0, 128, 255))
BAD: list[Any] = [
    with_image(b"not a picture"),
    with_image(b""),
    with_image(png((64, 64))[:60]),
    with_image(png((8, 4000))),  # beyond the family's aspect ratio
    with_image(np.zeros((5, 5), dtype=np.complex64)),
    with_image("https://127.0.0.1/a.png"),  # not public; tests connect to nothing else
    with_image("file:///etc/passwd"),
    with_image("/etc/passwd"),
    with_image("data:image/png;base64,@@@"),
    with_image(Path("/no/such/file.png")),
    with_image([None]),
    with_image([GOOD, GOOD], prompt="<image> one placeholder too few"),
    with_image({"image_embeds": torch.zeros(1, 4, 8)}),  # of another width, without a grid
    {
        "prompt": "x",
        "multi_modal_data": {"image": GOOD},
        "multi_modal_uuids": {"image": ["a", "b"]},
    },
    {"prompt": "x", "multi_modal_data": {"odour": 1}},
    {"prompt_token_ids": [2**40]},
    {"prompt": "word " * 3000},
]


def test_row_23_bad_requests_end_alone(llm: LLM) -> None:
    alone = llm.generate(with_image(GOOD), GREEDY, use_tqdm=False)[0].outputs[0].token_ids
    mixed: list[Any] = []
    for bad in BAD:
        mixed += [bad, with_image(GOOD)]
    outputs = llm.generate(mixed, GREEDY, use_tqdm=False, on_error="return")
    for bad, output in zip(BAD, outputs[0::2], strict=True):
        assert output.error is not None, f"this was answered: {bad!r:.80}"
    for output in outputs[1::2]:
        assert output.error is None
        assert output.outputs[0].token_ids == alone
    llm.check_integrity()


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_row_23_the_sentence_says_nothing_of_our_insides(llm: LLM, bad: Any) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        llm.generate(bad, GREEDY, use_tqdm=False)
    sentence = str(caught.value)
    assert isinstance(caught.value, RequestError) or "odour" in sentence
    assert " 0x" not in sentence
    assert "Traceback" not in sentence
    assert len(sentence) < 500
    assert sentence.rstrip().endswith((".", "?", "!", "`", ")", "'")), sentence
