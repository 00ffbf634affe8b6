"""media_io_kwargs["image"] is checked, and only what changes a picture is in its key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sensorium.errors import ConfigError
from sensorium_media_image.kind import ImageKind
from sensorium_media_image.options import LARGEST_MAX_IMAGE_PIXELS, ImageOptions


@pytest.mark.parametrize("color", [[1, 2, 3], (1, 2, 3), [np.uint8(1), np.int64(2), 3]])
def test_a_background(color: Any) -> None:
    options = ImageOptions.from_mapping({"rgba_background_color": color})
    assert options.rgba_background_color == (1, 2, 3)


def test_defaults() -> None:
    options = ImageOptions.from_mapping({})
    assert options.rgba_background_color == (255, 255, 255)
    assert options.max_image_pixels == 89_478_485


@pytest.mark.parametrize(
    "color",
    [[1, 2], [1, 2, 3, 4], [1, 2, 256], [-1, 2, 3], [1.0, 2, 3], [True, 2, 3], "red", None, 7],
)
def test_no_background(color: Any) -> None:
    with pytest.raises(ConfigError, match=r"rgba_background_color is .* three integers from 0 to"):
        ImageKind({"rgba_background_color": color})


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "many", None, LARGEST_MAX_IMAGE_PIXELS + 1])
def test_no_budget(count: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_image_pixels is .* integer from 1 to 536870912"):
        ImageKind({"max_image_pixels": count})


def test_unknown_options() -> None:
    with pytest.raises(
        ConfigError,
        match=r'media_io_kwargs\["image"\] has \'mode\'; allowed are rgba_background_color, max_im',
    ):
        ImageKind({"mode": "RGB"})


def test_the_key_holds_what_changes_the_result() -> None:
    plain = ImageKind({}).options_key()
    assert plain == ImageKind({"max_image_pixels": 5}).options_key()
    assert plain == ImageKind({"rgba_background_color": [255, 255, 255]}).options_key()
    assert plain != ImageKind({"rgba_background_color": [255, 255, 0]}).options_key()


def test_the_largest_budget_fits_the_kinds_bound() -> None:
    kind = ImageKind({"max_image_pixels": LARGEST_MAX_IMAGE_PIXELS})
    assert kind.max_decoded_bytes >= 12 * LARGEST_MAX_IMAGE_PIXELS
