"""JPEG past Pillow: the same pixels as Pillow's, and the same files refused."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg
from family_helpers import random_image
from PIL import Image

from sensorium.errors import MediaError
from sensorium_media_image import pictures
from sensorium_media_image.headers import read_header
from sensorium_media_image.jpeg import decode_jpeg

WHITE = (255, 255, 255)
#: Whole blocks, and none: one short, one over, thinner than a block, a single pixel.
SIZES = [(32, 48), (31, 49), (65, 33), (17, 250), (3, 90), (90, 1), (1, 1)]
ICC = bytes(range(256)) * 3


def photo(height: int, width: int) -> Image.Image:
    """Smooth colours with some noise: every coefficient of a block is used."""
    smooth = random_image(height, width, seed=1).astype(int)
    noise = np.random.default_rng(2).integers(-20, 21, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def save(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def fast(data: bytes) -> np.ndarray[Any, Any] | None:
    header = read_header(data)
    return decode_jpeg(data, header.height, header.width)


def by_pillow(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def with_adobe(data: bytes, transform: int) -> bytes:
    """Behind the start, instead of JFIF's, an APP14 segment that says how colours are coded."""
    assert data[2:4] == b"\xff\xe0"
    rest = data[4 + int.from_bytes(data[4:6], "big") :]
    return b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]) + rest


# --- pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_every_subsampling_and_odd_sizes(subsampling: str, size: tuple[int, int]) -> None:
    pixels = np.asarray(photo(*size))
    data = simplejpeg.encode_jpeg(pixels, quality=85, colorsubsampling=subsampling)
    decoded = fast(data)
    assert decoded is not None
    np.testing.assert_array_equal(decoded, by_pillow(data))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 30},
        {"quality": 100, "subsampling": "4:4:4"},
        {"progressive": True},
        {"optimize": True},
        {"restart_marker_blocks": 3},
        {"restart_marker_rows": 1, "progressive": True},
        {"icc_profile": ICC, "comment": b"a comment", "dpi": (72, 72)},
    ],
)
def test_every_way_of_coding(mode: str, options: dict[str, Any]) -> None:
    for height, width in ((64, 80), (61, 83)):
        data = save(photo(height, width).convert(mode), **options)
        decoded = fast(data)
        assert decoded is not None
        np.testing.assert_array_equal(decoded, by_pillow(data))


@pytest.mark.parametrize("transform", [0, 1])
def test_adobes_word_on_the_colours(transform: int) -> None:
    data = with_adobe(save(photo(40, 50)), transform)
    decoded = fast(data)
    assert decoded is not None
    np.testing.assert_array_equal(decoded, by_pillow(data))


def test_colours_by_the_names_of_their_channels() -> None:
    """Without JFIF's and Adobe's segments, channels called R, G, B are what they say."""
    data = save(photo(40, 50), keep_rgb=True)
    assert b"R\x11\x00G\x11\x00B" in data
    decoded = fast(data)
    assert decoded is not None
    np.testing.assert_array_equal(decoded, by_pillow(data))


@pytest.mark.parametrize("transform", [0, 2])
def test_four_colours_are_left_to_pillow(transform: int) -> None:
    data = save(photo(40, 50).convert("CMYK"))
    at = data.index(b"Adobe") + 11
    data = data[:at] + bytes([transform]) + data[at + 1 :]
    decoded = pictures.decode_encoded(data, read_header(data), WHITE)
    np.testing.assert_array_equal(decoded, by_pillow(data))


def test_the_array_is_new_contiguous_and_writable() -> None:
    data = save(photo(20, 30))
    first, second = fast(data), fast(data)
    assert first is not None
    assert second is not None
    assert first.flags.c_contiguous
    assert first.flags.writeable
    first[:] = 0
    np.testing.assert_array_equal(second, by_pillow(data))


def test_an_ordinary_file_is_never_given_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image) -> None:
        raise AssertionError("Pillow was asked to decode")

    data = save(photo(20, 30))
    expected = by_pillow(data)
    monkeypatch.setattr(pictures.JpegImageFile, "load", fail)
    np.testing.assert_array_equal(pictures.decode_encoded(data, read_header(data), WHITE), expected)


# --- damage ----------------------------------------------------------------------------


def test_a_cut_file_is_refused_wherever_it_is_cut() -> None:
    for options in ({}, {"progressive": True}):
        data = save(photo(90, 110), **options)
        start = data.index(b"\xff\xda") + 20
        for length in (*range(start, len(data) - 2, 97), len(data) - 2):
            assert fast(data[:length]) is None, f"cut after {length} of {len(data)} bytes"
        for length in range(start, len(data) - 20, 97):
            with pytest.raises(MediaError, match="the JPEG file is damaged or cut off"):
                pictures.decode_encoded(data[:length], read_header(data), WHITE)


def test_a_size_that_is_not_the_headers_is_not_decoded() -> None:
    data = save(photo(20, 30))
    for height, width in ((20, 29), (19, 30), (30, 20), (21, 31), (40, 60)):
        assert decode_jpeg(data, height, width) is None


def mutations(data: bytes, count: int) -> Iterator[bytes]:
    """One to three bytes of the entropy-coded part or the tables changed."""
    rng = random.Random(5)
    for _ in range(count):
        mutated = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            mutated[rng.randrange(20, len(data))] = rng.randrange(256)
        yield bytes(mutated)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_damaged_files_are_what_they_are_to_pillow(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    def outcome(data: bytes) -> bytes | str:
        try:
            return pictures.decode_encoded(data, read_header(data), WHITE).tobytes()
        except MediaError as error:
            return str(error)

    original = save(photo(40, 50), **options)
    files = [file for file in mutations(original, 400) if read_size(file) == (40, 50)]
    found = [outcome(file) for file in files]
    num_fast = sum(fast(file) is not None for file in files)
    assert 0 < num_fast < len(files), "both ways must have been tried"
    monkeypatch.setattr(pictures, "decode_jpeg", lambda *arguments: None)
    for file, result in zip(files, found, strict=True):
        assert outcome(file) == result


def read_size(data: bytes) -> tuple[int, int] | None:
    try:
        header = read_header(data)
    except MediaError:
        return None
    return header.height, header.width
