"""Our reading of headers agrees with Pillow's, and needs nothing beyond the header."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from sensorium.errors import MediaError
from sensorium_media_image.headers import FORMATS, Header, may_be_turned, read_header

Encode = Callable[..., bytes]
SIZES = [(1, 1), (3, 700), (257, 129), (640, 2)]
FILES: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG", "CMYK", {"comment": b"\xff\xc0 not a frame header"}),
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("PNG", "I;16", {}),
    ("WebP", "RGB", {}),
    ("WebP", "RGBA", {}),
    ("WebP", "RGB", {"lossless": True}),
    ("WebP", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
    ("GIF", "P", {}),
    ("GIF", "L", {"comment": b"with an extension, and a , in it"}),
    ("BMP", "RGB", {}),
    ("BMP", "1", {}),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "mode", "options"), FILES)
def test_agrees_with_pillow(
    encode: Encode, name: str, mode: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    data = encode(Image.new(mode, size), name, **options)
    assert read_header(data) == Header(name, *size)
    assert Image.open(io.BytesIO(data)).size == size


def test_all_formats_are_covered() -> None:
    assert {name for name, _, _ in FILES} == set(FORMATS)


def test_exif_thumbnails_are_not_taken_for_the_picture(encode: Encode) -> None:
    thumbnail = encode(Image.new("RGB", (9, 9)), "JPEG")
    data = encode(Image.new("RGB", (30, 20)), "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert read_header(data) == Header("JPEG", 30, 20)


def test_fill_bytes_and_small_bitmap_headers() -> None:
    jpeg = b"\xff\xd8" + b"\xff" * 5 + b"\xc0\0\x0b\x08\0\x07\0\x09\x01\x01\x11\0"
    assert read_header(jpeg) == Header("JPEG", 9, 7)
    core = b"BM" + bytes(12) + b"\x0c\0\0\0\x05\0\x06\0\x01\0\x18\0"
    assert read_header(core) == Header("BMP", 5, 6)
    upside_down = b"BM" + bytes(12) + b"\x28\0\0\0\x05\0\0\0\xfa\xff\xff\xff"
    assert read_header(upside_down) == Header("BMP", 5, 6)


def test_frames_that_stick_out_of_the_screen_count() -> None:
    gif = b"GIF89a\x02\0\x02\0\0\0\0" + b"," + b"\x0a\0\x14\0\x64\0\xc8\0\0"
    assert read_header(gif) == Header("GIF", 110, 220)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"%PDF-1.4",
        b"II*\0" + bytes(40),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
        b"RIFF\0\0\0\0WAVEfmt ",
    ],
    ids=["empty", "text", "pdf", "tiff", "svg", "jpeg2000", "wave"],
)
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(MediaError, match=r"no image in an allowed format \(JPEG, PNG, WebP, GIF"):
        read_header(data)


@pytest.mark.parametrize(("name", "mode", "options"), FILES)
def test_every_cut_of_a_header_is_refused_or_read_alike(
    encode: Encode, name: str, mode: str, options: dict[str, Any]
) -> None:
    data = encode(Image.new(mode, (12, 34)), name, **options)
    whole = read_header(data)
    outcomes = set()
    for length in range(min(len(data), 400)):
        try:
            outcomes.add(read_header(data[:length]))
        except MediaError as error:
            outcomes.add(str(error))
    expected = {whole, f"the {name} file's header is damaged or cut off."}
    assert outcomes - expected <= {o for o in outcomes if "no image in an allowed format" in str(o)}


def test_a_webp_file_states_an_orientation_only_with_exif(encode: Encode) -> None:
    picture = Image.new("RGBA", (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"lossless": True}, {"icc_profile": b"odd"}):
        plain = encode(picture, "WebP", **options)
        turned = encode(picture, "WebP", exif=exif, **options)
        assert not may_be_turned(plain, read_header(plain))
        assert may_be_turned(turned, read_header(turned))
        for end in range(len(plain)):
            assert may_be_turned(plain[:end], Header("WebP", 40, 30)) is False
    stuffed = plain[:12] + b"junk\0\0\0\0" * 100
    assert may_be_turned(stuffed, Header("WebP", 40, 30)), "nobody looks at so many chunks"
