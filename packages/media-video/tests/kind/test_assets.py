"""The clip that ships with the package."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

pytest.importorskip("av")

from sensorium.errors import ConfigError
from sensorium.types import Loaded
from sensorium_media_video.assets import NAMES, URL_VARIABLE, VideoAsset
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.kind import VideoKind


@pytest.mark.parametrize("name", NAMES)
def test_shipped_clips(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = VideoAsset(name)
    assert asset.np_ndarrays.shape == (72, 240, 320, 3)
    assert asset.metadata["fps"] == 12.0
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    file = Path(unquote(urlsplit(asset.url).path))
    assert file == asset.get_local_path() == Path(asset.video_path)
    assert 10_000 < len(file.read_bytes()) < 200_000


def test_something_moves() -> None:
    frames = VideoAsset("baby_reading", num_frames=4).np_ndarrays.astype(np.int16)
    assert all(np.abs(frames[i] - frames[i + 1]).mean() > 1 for i in range(3))


def load(value: object) -> Loaded:
    kind = VideoKind({})
    (item,) = kind.split(value)
    return kind.load(item.sources)


def test_frames_with_their_metadata_are_a_clip() -> None:
    asset = VideoAsset("baby_reading", num_frames=12)
    assert len(asset.pil_images) == 12
    facts = ClipFacts.of(load((asset.np_ndarrays, asset.metadata)).shape)
    assert (facts.num_frames, facts.sampled, facts.fps) == (12, True, pytest.approx(2.0))
    whole = VideoAsset("baby_reading")
    facts = ClipFacts.of(load((whole.pil_images, whole.metadata)).shape)
    assert (facts.num_frames, facts.sampled, facts.fps) == (72, False, 12.0)


def test_where_they_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:9/files/")
    assert VideoAsset("baby_reading").url == "http://127.0.0.1:9/files/baby_reading.mp4"


def test_the_engines_name_for_it() -> None:
    from sensorium.assets.video import VideoAsset as Found

    assert Found is VideoAsset


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="no video asset 'cat'; there is baby_reading"):
        VideoAsset("cat")
    with pytest.raises(ConfigError, match="num_frames is 0; it must be at least 1"):
        VideoAsset("baby_reading", num_frames=0)
