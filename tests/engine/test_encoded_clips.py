"""Encoded clips through whole engines: a file answers as the frames do that the rule takes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import make_qwen25vl

pytest.importorskip("av")

from sensorium import LLM, SamplingParams
from sensorium.assets.video import VideoAsset
from sensorium_media_video import sampling

ASSET = VideoAsset("baby_reading")
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=8, ignore_eos=True)
PROMPT = "<|vision_start|><|video_pad|><|vision_end|>What is turned?"
#: Pixels of a frame, so that twelve of them stay within the context.
SMALL = {"min_pixels": 28 * 28, "max_pixels": 16 * 28 * 28}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen25vl(tmp_path_factory.mktemp("qwen"))


def engine(folder: Path, **options: Any) -> LLM:
    return LLM(str(folder), max_model_len=1024, mm_processor_kwargs=SMALL, **options)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    llm = engine(folder)
    yield llm
    llm.close()


def answer(llm: LLM, video: Any, **beside: Any) -> tuple[int, list[int]]:
    """How many tokens the prompt has, and the answer's."""
    prompt = {"prompt": PROMPT, "multi_modal_data": {"video": video}, **beside}
    (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)
    assert output.prompt_token_ids is not None
    return len(output.prompt_token_ids), list(output.outputs[0].token_ids)


def chosen(indices: sampling.Indices) -> tuple[np.ndarray, dict[str, Any]]:
    """These frames of the clip, and where they are from."""
    metadata = {"fps": 12.0, "total_num_frames": 72, "frames_indices": list(indices)}
    return ASSET.np_ndarrays[list(indices)], metadata


def test_a_file_is_its_frames_at_two_a_second(llm: LLM) -> None:
    path = ASSET.get_local_path()
    by_rule = answer(llm, chosen(sampling.qwen(72, 12.0)))
    assert answer(llm, path) == by_rule
    assert answer(llm, path.read_bytes()) == by_rule
    other = answer(llm, chosen(sampling.qwen(72, 12.0, fps=1.0)))
    assert other != by_rule


def test_a_number_of_frames_in_a_request_and_for_the_engine(llm: LLM, folder: Path) -> None:
    path = ASSET.get_local_path()
    by_rule = answer(llm, chosen(sampling.qwen(72, 12.0, num_frames_wanted=4)))
    assert answer(llm, path, mm_processor_kwargs={"num_frames": 4}) == by_rule
    with engine(folder, media_io_kwargs={"video": {"num_frames": 4}}) as other:
        assert answer(other, path) == by_rule


def test_a_chat_with_a_url_and_then_its_uuid_alone(llm: LLM) -> None:
    data = base64.b64encode(ASSET.get_local_path().read_bytes()).decode()

    def ask(part: dict[str, Any]) -> list[int]:
        content = [part, {"type": "text", "text": "What is turned?"}]
        (output,) = llm.chat([{"role": "user", "content": content}], GREEDY, use_tqdm=False)
        return list(output.outputs[0].token_ids)

    url = {"url": f"data:video/mp4;base64,{data}"}
    first = ask({"type": "video_url", "video_url": url, "uuid": "reading"})
    assert ask({"type": "video_url", "video_url": None, "uuid": "reading"}) == first
    assert ask({"type": "video_url", "video_url": url}) == first


def test_a_file_that_is_cut_off_costs_its_request_alone(llm: LLM) -> None:
    good = ASSET.get_local_path().read_bytes()
    prompts = [
        {"prompt": PROMPT, "multi_modal_data": {"video": data}}
        for data in (good, good[:300], b"no clip", good)
    ]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False, on_error="return")
    assert [output.error is None for output in outputs] == [True, False, False, True]
    assert outputs[0].outputs[0].token_ids == outputs[3].outputs[0].token_ids
