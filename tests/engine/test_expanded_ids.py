"""Ids in which a processor has expanded an image's placeholder are taken as they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

from sensorium import LLM, RequestError, SamplingParams
from sensorium_tiny_models import model_path

PROMPT = "<|vision_start|><|image_pad|><|vision_end|>What is red?"
GREEDY = SamplingParams(temperature=0, max_tokens=4)


@pytest.fixture(scope="module")
def tiny() -> Iterator[LLM]:
    with LLM(str(model_path()), dtype="float32", engine_process=False, max_model_len=512) as engine:
        yield engine
        engine.check_integrity()


def test_the_answer_is_that_of_the_text(tiny: LLM) -> None:
    media = {"image": [Image.new("RGB", (56, 84), c) for c in ("red", "blue")]}
    [by_text] = tiny.generate({"prompt": PROMPT * 2, "multi_modal_data": media}, GREEDY)
    ids = list(by_text.prompt_token_ids)
    assert len(ids) > len(tiny.get_tokenizer().encode(PROMPT * 2)), "they are expanded"
    [by_ids] = tiny.generate({"prompt_token_ids": ids, "multi_modal_data": media}, GREEDY)
    assert by_ids.prompt_token_ids == by_text.prompt_token_ids
    assert by_ids.outputs[0].text == by_text.outputs[0].text
    pad = tiny.get_tokenizer().token_to_id("<|image_pad|>")
    ids.insert(ids.index(pad), pad)
    with pytest.raises(RequestError, match="expanded"):
        tiny.generate({"prompt_token_ids": ids, "multi_modal_data": media}, GREEDY)
