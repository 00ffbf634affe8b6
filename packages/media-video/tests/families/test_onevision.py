"""Clips for LLaVA-OneVision: which frames count, how many rows they have, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from clips import opened, random_clip
from family_helpers import model_context

from sensorium.errors import MediaError, RequestError
from sensorium_media_image import pieces
from sensorium_media_image.families.onevision import OneVisionFamily
from sensorium_media_image.manifests import load_manifest
from sensorium_media_image.resize import resize
from sensorium_media_video import sampling
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.families.onevision import OneVisionVideo

PUBLISHED = load_manifest("llava_onevision_7b")
FAMILY = OneVisionFamily()


@pytest.fixture(scope="module")
def adapter() -> OneVisionVideo:
    processor = {**PUBLISHED.processor_config, **PUBLISHED.preprocessor_config}
    return OneVisionVideo(model_context(FAMILY, PUBLISHED.config, processor))


@pytest.mark.parametrize(
    ("kwargs", "wanted", "num_frames"),
    [
        ({}, {}, 32),
        ({"num_frames": 16}, {}, 16),
        ({"fps": 1}, {}, 60),
        ({"fps": 1, "num_frames": 16}, {}, 16),
        ({"num_frames": 2000, "fps": 0.1}, {}, 6),
        ({}, {"wanted_frames": 8}, 8),
        ({}, {"wanted_fps": 0.5}, 30),
        ({"num_frames": 4}, {"wanted_fps": 0.5}, 4),
    ],
)
def test_frames_and_rows(
    adapter: OneVisionVideo, kwargs: dict[str, Any], wanted: dict[str, Any], num_frames: int
) -> None:
    facts = ClipFacts(1800, 360, 640, fps=30.0, duration=60.0, **wanted)
    plan = adapter.plan(facts.shape, adapter.options(kwargs))
    assert plan.num_tokens == 196 * num_frames + 1
    assert plan.token_ids == (151647,) * plan.num_tokens
    per_piece = -(-num_frames // plan.num_pieces)
    assert per_piece * 729 <= pieces.PATCHES_AT_ONCE


def test_all_frames_that_were_sampled_count(adapter: OneVisionVideo) -> None:
    facts = ClipFacts(50, 360, 640, sampled=True)
    plan = adapter.plan(facts.shape, adapter.options({"num_frames": 4}))
    assert plan.num_tokens == 196 * 50 + 1


def test_each_chosen_frame_is_squeezed_into_a_tile(adapter: OneVisionVideo) -> None:
    frames = random_clip(50, 30, 40, seed=1)
    loaded = opened((frames, {"fps": 10.0, "do_sample_frames": True}))
    options = adapter.options({"num_frames": 3})
    made = adapter.process(loaded, adapter.plan(loaded.shape, options), options)["tower"]["frames"]
    indices = sampling.onevision(50, 10.0, num_frames_wanted=3)
    assert indices == (0, 24, 49)
    for got, index in zip(made, indices, strict=True):
        assert torch.equal(got, resize(frames[index], 384, 384))


def test_what_is_refused(adapter: OneVisionVideo) -> None:
    options = adapter.options({})
    with pytest.raises(MediaError, match=r"model has 32768 positions; lower fps or num_frames"):
        adapter.plan(ClipFacts(200, 36, 64, sampled=True).shape, options)
    with pytest.raises(MediaError, match="200 times"):
        adapter.plan(ClipFacts(2, 1, 640, sampled=True).shape, options)
    for num_rows in (1, 196, 198):
        with pytest.raises(RequestError, match="196 for each frame, and one"):
            adapter.plan_embeds(num_rows, {}, options)
    with pytest.raises(RequestError, match="fps is"):
        adapter.options({"fps": [1.0]})
    with pytest.raises(RequestError, match="do_sample_frames"):
        adapter.options({"do_sample_frames": True})
