"""Training's clips of whole batches: as the package records them, and as the engine hears them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sensorium_media_audio.mel import log_mel
from sensorium_tiny_models.hearing import TRAIN, draw_item, item_rng

TRAINING = Path(__file__).parents[1] / "training"
SECONDS = 2.0


@pytest.fixture(scope="module")
def training() -> Iterator[dict[str, Any]]:
    """Modules of the training folder, by name."""
    sys.path.insert(0, str(TRAINING))
    import sound_data
    import sound_room

    yield {"data": sound_data, "room": sound_room}
    sys.path.remove(str(TRAINING))


@pytest.fixture(scope="module")
def sounds(training: dict[str, Any]) -> torch.Tensor:
    """Dry sounds as a batch holds them: (24, samples) int16."""
    block = np.zeros((24, round(SECONDS * 16_000)), dtype=np.int16)
    for index, row in enumerate(block):
        item = draw_item(item_rng("room", 0, index), TRAIN, "beeps", SECONDS, dry=True)
        (sound,) = item.clips
        row[: len(sound)] = training["data"].stored(sound)
    return torch.from_numpy(block)


def test_sounds_move_whole(training: dict[str, Any], sounds: torch.Tensor) -> None:
    torch.manual_seed(0)
    dry = sounds.float()
    placed = training["room"].placed(dry)
    assert (placed != dry).any(dim=1).sum() > 20, "nearly all have moved"
    for before, after in zip(dry, placed, strict=True):
        end = int(before.nonzero()[-1]) + 1
        start = int(after.nonzero()[0]) - int(before.nonzero()[0])
        assert torch.equal(after[start : start + end], before[:end])
        assert int((after != 0).sum()) == int((before != 0).sum())


def test_clips_are_recorded_as_the_package_records(
    training: dict[str, Any], sounds: torch.Tensor
) -> None:
    """Peaks and the level of the noise lie in the same ranges; no two uses are the same."""
    torch.manual_seed(0)
    room = training["room"]
    placed = room.placed(sounds.float() / 32_768)
    clips, again = room.recorded(placed), room.recorded(placed)
    assert not torch.equal(clips, again)
    peaks = clips.abs().amax(dim=1)
    assert 10**-1.3 < peaks.min() < peaks.max() <= 1.0
    quiet = torch.stack([clip[gap].std() for clip, gap in zip(clips, placed == 0, strict=True)])
    assert (quiet / peaks).median() < 10**-1.3
    assert (quiet / peaks).min() > 10**-3.3


def test_spectrograms_are_the_engines(training: dict[str, Any]) -> None:
    items = [draw_item(item_rng("mel", 0, i), TRAIN, "direction", SECONDS) for i in range(3)]
    clips = np.stack([item.clips[0] for item in items])
    ours = training["room"].spectrograms(torch.from_numpy(clips))
    for mel, clip in zip(ours, clips, strict=True):
        assert (mel - log_mel(clip, mel.shape[1])).abs().max() < 1e-5


def test_what_is_heard_is_what_the_model_takes(
    training: dict[str, Any], sounds: torch.Tensor
) -> None:
    heard = training["room"].heard(sounds)
    assert heard.shape == (24, 200, 80)
    assert heard.dtype == torch.float16
    assert heard.isfinite().all()
