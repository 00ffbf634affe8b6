"""The pictures that ship with the package."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from sensorium.errors import ConfigError
from sensorium_media_image.assets import NAMES, ImageAsset


@pytest.mark.parametrize("name", NAMES)
def test_shipped_pictures(name: str) -> None:
    image = ImageAsset(name).pil_image
    assert image.mode == "RGB"
    assert min(image.size) >= 300
    assert image is not ImageAsset(name).pil_image
    file = resources.files("sensorium_media_image") / "asset_files" / f"{name}.jpg"
    assert 5_000 < len(file.read_bytes()) < 100_000


def test_they_show_what_they_are_called() -> None:
    sign = np.asarray(ImageAsset("stop_sign").pil_image).astype(int)
    red, green, _ = sign[100, 150]
    assert red > 150 > 80 > green, "above the word, a stop sign is red"
    tree = np.asarray(ImageAsset("cherry_blossom").pil_image).astype(int)
    pink = (tree[..., 0] > 230) & (tree[..., 1] < 225) & (tree[..., 2] > 150)
    assert pink.mean() > 0.05


def test_other_names() -> None:
    with pytest.raises(ConfigError, match="no image asset 'cat'; there are cherry_blossom, stop"):
        ImageAsset("cat")
