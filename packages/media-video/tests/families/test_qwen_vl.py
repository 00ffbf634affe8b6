"""Clips for Qwen2-VL and Qwen2.5-VL: which frames, of what size, at which positions."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import opened, random_clip
from family_helpers import load_tower, model_context, open_folder
from qwen_video_reference import Item, published_positions
from tiny_checkpoints import QWEN_IDS, make_qwen2vl, make_qwen25vl

from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.types import Loaded, MediaPlan, MediaSpan, PreparedItem
from sensorium_media_image import pieces
from sensorium_media_image.families.mrope import mrope_positions
from sensorium_media_image.families.qwen_vl import QwenVLFamily
from sensorium_media_image.manifests import load_manifest
from sensorium_media_image.resize import resize
from sensorium_media_image.towers.qwen import QwenTower
from sensorium_media_video import sampling
from sensorium_media_video.clip import BlankClip
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.families.qwen_vl import QwenVideo

FAMILY = QwenVLFamily()
PUBLISHED = load_manifest("qwen2_5_vl_3b")
PAD = QWEN_IDS["<|video_pad|>"]
#: A minute of 640×360 at 30 frames a second.
MINUTE = ClipFacts(1800, 360, 640, fps=30.0, duration=60.0)


def published(**processor: Any) -> QwenVideo:
    return QwenVideo(
        model_context(FAMILY, PUBLISHED.config, {**PUBLISHED.preprocessor_config, **processor})
    )


def plan(facts: ClipFacts, adapter: QwenVideo | None = None, **kwargs: Any) -> MediaPlan:
    adapter = adapter or published()
    return adapter.plan(facts.shape, adapter.options({"max_pixels": 200_704, **kwargs}))


@pytest.fixture(scope="module", params=[make_qwen2vl, make_qwen25vl], ids=["2", "2.5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = request.param(tmp_path_factory.mktemp("qwen"), seed=2)
    return made


@pytest.fixture(scope="module")
def adapter(folder: Path) -> QwenVideo:
    checkpoint = open_folder(folder)
    return QwenVideo(model_context(FAMILY, checkpoint.config, checkpoint.processor))


# --- which frames -----------------------------------------------------------------------


def test_two_frames_a_second_are_chosen_and_their_size_is_the_checkpoints() -> None:
    facts = ClipFacts(300, 360, 640, fps=30.0, duration=10.0)
    made = plan(facts, max_pixels=None)
    assert made.grid == (10, 13, 23), "20 frames in pairs; 360×640 is rounded to blocks alone"
    assert made.num_tokens == 10 * 13 * 23
    assert made.token_ids == (151656,) * made.num_tokens
    assert made.facts == {"seconds_per_grid": (1.0,), "tokens_per_second": 2.0}


@pytest.mark.parametrize(
    ("kwargs", "facts", "times"),
    [
        ({}, {}, 60),
        ({"fps": 1}, {}, 30),
        ({"fps": [1.0]}, {}, 30),
        ({"num_frames": 16}, {}, 8),
        ({"num_frames": 15}, {}, 8),
        ({"max_frames": 40}, {}, 20),
        ({"fps": 0.01}, {}, 2),
        ({"fps": 0.01, "min_frames": 10}, {}, 5),
        ({}, {"wanted_frames": 8}, 4),
        ({}, {"wanted_fps": 0.5}, 15),
        ({}, {"wanted_fps": 0.5, "wanted_frames": 8}, 4),
        ({}, {"wanted_fps": 0.5, "wanted_frames": 64}, 15),
        ({"fps": 1}, {"wanted_frames": 8}, 30),
        ({"num_frames": 2000}, {"num_frames": 200}, 100),
    ],
)
def test_options_choose_frames(kwargs: dict[str, Any], facts: dict[str, Any], times: int) -> None:
    clip = ClipFacts(**{**_fields(MINUTE), **facts})
    assert plan(clip, max_pixels=28 * 28 * 16, **_rest(kwargs)).grid[0] == times


def _rest(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != "max_pixels"}


def _fields(facts: ClipFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in facts.__dataclass_fields__}


def test_frames_that_were_sampled_are_never_sampled_again() -> None:
    facts = ClipFacts(7, 56, 56, fps=0.5, sampled=True)
    for kwargs in ({}, {"fps": 1}, {"num_frames": 2}, {"max_frames": 4}):
        assert plan(facts, **kwargs).grid[0] == 4, "seven frames and the last one again"


def test_frames_without_a_rate_count_as_sampled_at_the_default() -> None:
    assert plan(ClipFacts(8, 56, 56, sampled=True)).facts["seconds_per_grid"] == (1.0,)


@pytest.mark.parametrize(
    ("facts", "kwargs", "seconds"),
    [
        ({"fps": 0.5}, {}, (4.0,)),
        ({"fps": 4.0}, {"fps": 1}, (0.5,)),
        ({}, {"fps": 4}, (0.5,)),
        ({}, {"fps": [4.0, 1.0]}, (0.5, 2.0)),
        ({"fps": 0.5}, {"second_per_grid_ts": 3}, (3.0,)),
        ({}, {"second_per_grid_ts": [3, 0.2]}, (3.0, 0.2)),
    ],
)
def test_the_rate_of_sampled_frames(
    facts: dict[str, Any], kwargs: dict[str, Any], seconds: tuple[float, ...]
) -> None:
    """The clip's own, then what came beside the request, then the default."""
    made = plan(ClipFacts(8, 56, 56, sampled=True, **facts), **kwargs)
    assert made.facts["seconds_per_grid"] == pytest.approx(seconds)


def test_the_rate_of_chosen_frames_is_what_was_chosen() -> None:
    """Of 1,000 frames at 29.97 a second 66 are chosen: 1.978 a second."""
    facts = ClipFacts(1000, 56, 56, fps=29.97)
    chosen = len(sampling.qwen(1000, 29.97))
    made = plan(facts, max_pixels=3136)
    assert made.facts["seconds_per_grid"] == (2 / (chosen / 1000 * 29.97),)


def test_a_list_of_rates_chooses_no_frames() -> None:
    with pytest.raises(MediaError, match="one number to choose frames by"):
        plan(MINUTE, fps=[1, 2])


def test_a_clip_whose_rate_nobody_said_needs_a_count() -> None:
    facts = ClipFacts(100, 56, 56)
    with pytest.raises(MediaError, match="num_frames"):
        plan(facts)
    assert plan(facts, num_frames=10).grid[0] == 5


# --- of what size -----------------------------------------------------------------------


def test_total_pixels_are_shared_by_the_frames() -> None:
    """qwen-vl-utils' rule: an even share of twice the total, and not below 1.05 of the least."""
    kwargs = {"total_pixels": 1800 * 28 * 28, "min_pixels": 4 * 28 * 28}
    few = plan(MINUTE, num_frames=20, max_pixels=None, **kwargs)
    assert few.grid[1] * few.grid[2] <= 180
    assert few.grid[1] * few.grid[2] > 140
    many = plan(MINUTE, num_frames=1800, max_pixels=None, **kwargs)
    assert many.grid[1] * many.grid[2] <= 4, "1.05 of four blocks are four"


def test_a_clip_that_fills_the_context_is_refused_before_it_is_decoded() -> None:
    adapter = published()
    with pytest.raises(MediaError, match=r"model has 128000 positions; lower max_pixels"):
        adapter.plan(ClipFacts(1800, 1080, 1920, fps=30.0).shape, adapter.options({}))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fps": 0}, "fps is 0"),
        ({"fps": []}, "fps is"),
        ({"fps": "2"}, "fps is"),
        ({"num_frames": 1.5}, "num_frames is 1.5"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"min_frames": 9, "max_frames": 8}, "min_frames is 9"),
        ({"max_frames": 1}, "max_frames is 1"),
        ({"total_pixels": 0}, "total_pixels is 0"),
        ({"do_sample_frames": True}, "do_sample_frames is True"),
        ({"second_per_grid_ts": -1}, "second_per_grid_ts"),
        ({"min_pixels": 9, "max_pixels": 8}, "min_pixels is 9"),
    ],
)
def test_options_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        published().options(kwargs)


def test_bounds_are_read_where_transformers_writes_them() -> None:
    flat = published().options({})
    assert (flat["min_pixels"], flat["max_pixels"]) == (3136, 12_845_056)
    own = {"size": {"shortest_edge": 6272, "longest_edge": 100_352}}
    nested = published(video_processor=own).options({})
    assert (nested["min_pixels"], nested["max_pixels"]) == (6272, 100_352)
    context = model_context(FAMILY, PUBLISHED.config, {"image_processor": {"max_pixels": 6272}})
    default = QwenVideo(context).options({})
    assert (default["min_pixels"], default["max_pixels"]) == (128 * 784, 768 * 784)


def test_other_steps_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="temporal_patch_size"):
        published(video_processor={"temporal_patch_size": 3})


# --- pixels and rows --------------------------------------------------------------------


def test_each_chosen_frame_is_resized_as_a_picture_is(adapter: QwenVideo) -> None:
    frames = random_clip(40, 70, 100, seed=1)
    loaded = opened((frames, {"fps": 10.0, "do_sample_frames": True}))
    options = adapter.options({})
    made = adapter.plan(loaded.shape, options)
    pixels = adapter.process(loaded, made, options)["tower"]["pixels"]
    indices = sampling.qwen(40, 10.0)
    assert made.grid == (4, 2, 4)
    assert pixels.shape == (8, 56, 112, 3)
    for got, index in zip(pixels, indices, strict=True):
        assert torch.equal(got, resize(frames[index], 56, 112))


def test_pieces_are_the_item(
    folder: Path, adapter: QwenVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine frames, the last one standing for its pair, in as many pieces as there are times."""
    monkeypatch.setattr(pieces, "PATCHES_AT_ONCE", 1)
    tower = load_tower(FAMILY, open_folder(folder))
    assert isinstance(tower, QwenTower)
    loaded = opened(random_clip(9, 70, 150, seed=4))
    options = adapter.options({})
    made = adapter.plan(loaded.shape, options)
    assert made.num_pieces == made.grid[0] == 5
    item = adapter.process(loaded, made, options)["tower"]
    (whole,) = tower([item])
    for count in (2, 3, 5):
        parts = [tower.encode_piece(item, i, count).embeds for i in range(count)]
        assert all(len(part) for part in parts)
        torch.testing.assert_close(torch.cat(parts), whole.embeds, rtol=1e-4, atol=1e-5)


def test_a_piece_has_at_most_so_many_patches() -> None:
    made = plan(MINUTE)
    patches = made.grid[1] * made.grid[2] * 4
    per_piece = -(-made.grid[0] // made.num_pieces)
    assert per_piece * patches <= pieces.PATCHES_AT_ONCE < (per_piece + 1) * patches


# --- positions --------------------------------------------------------------------------


def prepared(adapter: QwenVideo, facts: ClipFacts, index: int, **kwargs: Any) -> PreparedItem:
    made = adapter.plan(facts.shape, adapter.options(kwargs))
    return PreparedItem("video", index, bytes([index]) * 32, made, {})


def test_positions_are_the_published_ones(folder: Path, adapter: QwenVideo) -> None:
    """Several clips, of many rates, between texts."""
    config = open_folder(folder).config
    timed = config["architectures"][0].startswith("Qwen2_5")
    rng = random.Random(3)
    for _ in range(60):
        ids, spans, items, written = [1] * rng.randint(0, 4), [], [], []
        for index in range(rng.randint(1, 3)):
            fps = rng.choice([0.5, 1.0, 1.978, 2.0, 3.3, 7.0, 24.0, 29.97, 60.0])
            facts = ClipFacts(
                *(rng.randint(1, 12), rng.randint(28, 200), rng.randint(28, 200)),
                fps=fps,
                sampled=True,
            )
            item = prepared(adapter, facts, index)
            num_tokens = item.plan.num_tokens
            spans.append(MediaSpan(index, (0, num_tokens), len(ids), num_tokens))
            items.append(item)
            times, rows, columns = item.plan.grid
            grid = (times, 2 * rows, 2 * columns)
            written.append(Item(grid, torch.empty(0), second_per_grid=2 / fps))
            ids += [PAD] * num_tokens + [1] * rng.randint(1, 5)
        ours, delta = mrope_positions(len(ids), spans, items)
        expected = published_positions(
            ids, written, (0, PAD), tokens_per_second=2.0 if timed else None
        )
        assert np.array_equal(ours, expected.numpy())
        assert delta == int(expected.max()) + 1 - len(ids)


def test_rates_above_two_a_second_keep_their_times() -> None:
    """Seconds are multiplied before anything is cut off: at 8 frames a second, 0 0 1 1 2 2 …"""
    item = prepared(published(), ClipFacts(12, 28, 28, fps=8.0, sampled=True), 0, max_pixels=3136)
    span = MediaSpan(0, (0, item.plan.num_tokens), 0, item.plan.num_tokens)
    positions, _ = mrope_positions(item.plan.num_tokens, [span], [item])
    assert sorted(set(positions[0].tolist())) == [0, 1, 2]


def test_a_list_of_rates_has_one_for_each_clip_of_the_prompt() -> None:
    facts = ClipFacts(4, 28, 28, sampled=True)
    adapter = published()
    items = [prepared(adapter, facts, i, fps=[1.0, 0.5], max_pixels=3136) for i in range(3)]
    length = items[0].plan.num_tokens
    for index, second in ((0, 4), (1, 8)):
        span = MediaSpan(index, (0, length), 0, length)
        positions, _ = mrope_positions(length, [span], items)
        assert max(positions[0]) == second
    with pytest.raises(RequestError, match="rates were given for 2 video items"):
        mrope_positions(length, [MediaSpan(2, (0, length), 0, length)], items)


def test_the_largest_clip_fills_the_context_with_the_largest_frames() -> None:
    adapter = published()
    options = adapter.options({})
    worst = adapter.worst_case(options, {})
    made = adapter.plan(worst, options)
    assert made.grid[1] * made.grid[2] > 15_000
    assert made.num_tokens > 127_000
    loaded = Loaded(BlankClip(2, 28, 28), ClipFacts(2, 28, 28, sampled=True).shape)
    assert adapter.plan(loaded.shape, options).num_tokens == 4
