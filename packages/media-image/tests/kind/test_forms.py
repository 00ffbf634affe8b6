"""Every form of compat's row "image" becomes the same picture, or a sentence."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sensorium.errors import MediaError, UnsupportedError
from sensorium.media.fetch import resolve
from sensorium.types import MediaItem, UrlSource
from sensorium_media_image.kind import ImageKind

KIND = ImageKind({})
RGB = np.random.default_rng(5).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def loaded(items: list[MediaItem]) -> list[np.ndarray[Any, Any] | None]:
    """Each item's picture, fetched and loaded; None for items without data."""
    result = []
    for position, item in enumerate(items):
        assert (item.kind, item.index) == ("image", position)
        sources = [resolve(source, max_bytes=KIND.max_fetch_bytes) for source in item.sources]
        result.append(KIND.load(sources).value if sources else None)
    return result


def one(value: Any) -> np.ndarray[Any, Any]:
    (picture,) = loaded(KIND.split(value))
    assert picture is not None
    return picture


def forms() -> dict[str, Any]:
    chw = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    return {
        "PIL": Image.fromarray(RGB),
        "HWC array": RGB,
        "CHW array": chw,
        "HWC tensor": torch.from_numpy(RGB.copy()),
        "CHW tensor": torch.from_numpy(chw),
        "CHW view": RGB.transpose(2, 0, 1),
        "read-only array": np.frombuffer(RGB.tobytes(), np.uint8).reshape(RGB.shape),
        "int64 array": RGB.astype(np.int64),
        "float array to 1": RGB.astype(np.float64) / 255,
        "float array to 255": RGB.astype(np.float32),
        "HWC float tensor": torch.from_numpy(RGB.copy()).float() / 255,
        "CHW float tensor": torch.from_numpy(chw).float() / 255,
        "CHW float tensor to 255": torch.from_numpy(chw).float(),
        "tensor with gradient": (torch.from_numpy(RGB.copy()) / 255).requires_grad_(),
        "bfloat16 to 255": torch.from_numpy(RGB.copy()).bfloat16(),
    }


@pytest.mark.parametrize("name", [name for name in forms() if "bfloat16" not in name])
def test_values(name: str) -> None:
    np.testing.assert_array_equal(one(forms()[name]), RGB)


def test_bfloat16_is_read_as_far_as_it_is_exact() -> None:
    value = forms()["bfloat16 to 255"]
    np.testing.assert_array_equal(one(value), value.float().round().byte().numpy())


def test_encoded_forms(tmp_path: Path, encode: Callable[..., bytes]) -> None:
    data = encode(Image.fromarray(RGB), "PNG")
    file = tmp_path / "a.png"
    file.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for value in (data, bytearray(data), memoryview(data), file, url, Image.open(file)):
        np.testing.assert_array_equal(one(value), RGB)
        np.testing.assert_array_equal(one([value]), RGB)


def test_a_wrong_media_type_is_not_trusted(encode: Callable[..., bytes]) -> None:
    data = base64.b64encode(encode(Image.fromarray(RGB), "PNG")).decode()
    np.testing.assert_array_equal(one(f"data:image/jpeg;base64,{data}"), RGB)


def test_lists_with_none() -> None:
    pictures = loaded(KIND.split([None, Image.fromarray(RGB), RGB, None]))
    assert [picture is None for picture in pictures] == [True, False, False, True]
    assert loaded(KIND.split(None)) == [None]
    assert loaded(KIND.split((None,))) == [None]
    assert KIND.split([]) == []


def test_a_fourth_dimension_is_a_batch() -> None:
    batch = np.stack([RGB, RGB[::-1]])
    channels_first = batch.transpose(0, 3, 1, 2)
    values = [batch, channels_first, torch.from_numpy(batch.copy())]
    values.append(torch.from_numpy(channels_first.copy()) / 255)
    for value in values:
        first, second = loaded(KIND.split(value))
        np.testing.assert_array_equal(first, RGB)
        np.testing.assert_array_equal(second, RGB[::-1])
    assert KIND.split(np.zeros((0, 4, 4, 3), np.uint8)) == []


def test_channels() -> None:
    grey = RGB[:, :, :1]
    np.testing.assert_array_equal(one(grey), np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(one(grey.transpose(2, 0, 1)), np.repeat(grey, 3, axis=2))
    mask = grey > 100
    np.testing.assert_array_equal(one(mask), np.repeat(mask * np.uint8(255), 3, axis=2))
    half = np.dstack([RGB, np.full(RGB.shape[:2], 128, np.uint8)])
    expected = np.rint((RGB * 128.0 + 255 * 127.0) / 255)
    np.testing.assert_array_equal(one(half), expected)
    np.testing.assert_array_equal(one(half.transpose(2, 0, 1)), expected)
    # The last dimension decides where both could be channels.
    np.testing.assert_array_equal(one(np.zeros((3, 4, 3), np.uint8)).shape, (3, 4, 3))


def test_the_callers_array_is_left_as_it_is() -> None:
    array = RGB.copy()
    array.setflags(write=False)
    for value in (array, array.transpose(2, 0, 1), array / 255.0):
        before = value.copy()
        one(value)
        np.testing.assert_array_equal(value, before)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a/b.png", "image 0: a text must be a URL; pass a file as pathlib.Path"),
        (["data:,x", "C:\\a.png"], "image 1: a text must be a URL"),
        (7, "image 0: it is a int; allowed are a PIL image"),
        ([[RGB]], "image 0: it is a list"),
        ({"url": "x"}, "image is a mapping with 'url'"),
        (np.zeros((4, 5), np.uint8), r"image 0: an array of shape \(4, 5\) has no channels"),
        (np.zeros((2, 5, 6), np.uint8), r"shape \(2, 5, 6\) is no picture; allowed are"),
        (np.zeros((4, 5, 6, 7), np.uint8), r"shape \(5, 6, 7\) is no picture"),
        (np.zeros(5, np.uint8), r"shape \(5,\) is no picture"),
        (np.zeros((1, 2, 3, 4, 5)), r"shape \(1, 2, 3, 4, 5\) is no picture"),
    ],
)
def test_no_form_of_an_image(value: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        KIND.split(value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2, 3), -1), "from -1 to -1; allowed are integers from 0 to 255"),
        (np.full((2, 2, 3), 256), "from 256 to 256"),
        (np.full((2, 2, 3), 1000, np.uint16), "from 1000 to 1000"),
        (np.full((2, 2, 3), np.nan), "from nan to nan"),
        (np.full((2, 2, 3), -0.5), "from -0.5 to -0.5"),
        (np.full((2, 2, 3), 255.5), "from 255.5 to 255.5"),
        (np.full((2, 2, 3), 1j), "an array of complex128 is no picture"),
        (np.zeros((0, 2, 3), np.uint8), "it is 2×0 pixels; it must be at least 1×1"),
        (torch.zeros(3, 2, 3).to_sparse(), "sparse"),
        (torch.zeros(3, 2, 3, device="meta"), "has no data"),
    ],
)
def test_numbers_out_of_range(array: Any, message: str) -> None:
    items = KIND.split(array)
    with pytest.raises(MediaError, match=message):
        KIND.load(items[0].sources)


def test_floats_at_most_one_are_fractions() -> None:
    assert one(np.array([[[0.0, 0.5, 1.0]]])).tolist() == [[[0, 128, 255]]]
    assert one(np.array([[[0.0, 0.5, 1.5]]])).tolist() == [[[0, 0, 2]]]


# --- chat parts ------------------------------------------------------------------------


def test_url_parts() -> None:
    for value in ({"url": "data:,x"}, {"url": "data:,x", "detail": "auto"}, "data:,x"):
        assert KIND.parse_part("image_url", value).sources == (UrlSource("data:,x"),)
    for value in (None, {"url": None}, {}):
        assert KIND.parse_part("image_url", value) == MediaItem("image", 0)


def test_pil_parts() -> None:
    picture = Image.fromarray(RGB)
    np.testing.assert_array_equal(loaded([KIND.parse_part("image_pil", picture)])[0], RGB)
    assert KIND.parse_part("image_pil", None).sources == ()


@pytest.mark.parametrize(
    ("part", "value", "error", "message"),
    [
        ("image_url", {"url": "data:,x", "detail": "high"}, UnsupportedError, "detail is 'high'"),
        ("image_url", {"url": "data:,x", "size": 1}, MediaError, "has 'size'; allowed are url and"),
        ("image_url", {"url": 7}, MediaError, "image_url is a int"),
        ("image_url", [], MediaError, "image_url is a list"),
        ("image_pil", "x", MediaError, "image_pil holds a str"),
        ("image_embeds", 7, MediaError, "image_embeds holds a int"),
        ("image_embeds", {"rows": 1}, MediaError, "a mapping with 'rows'"),
    ],
)
def test_parts_that_are_refused(part: str, value: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        KIND.parse_part(part, value)


def test_part_types() -> None:
    assert KIND.part_types == ("image_url", "image_pil", "image_embeds")
    assert KIND.offline_part_types == ("image_pil",)
    assert KIND.size_names == ("height", "width")
