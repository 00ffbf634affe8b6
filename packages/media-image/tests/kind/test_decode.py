"""What a picture looks like once loaded: modes, transparency, orientation, first frames."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from sensorium.errors import MediaError
from sensorium.types import BytesSource, ValueSource
from sensorium_media_image import pictures
from sensorium_media_image.kind import ImageKind

Encode = Callable[..., bytes]
Load = Callable[..., np.ndarray[Any, Any]]
BLUE = [0, 0, 255]


def over(rgba: Any, background: list[int]) -> np.ndarray[Any, Any]:
    """The reference: alpha blending, rounded once."""
    rgba = np.asarray(rgba).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + np.array(background) * (1 - alpha)).astype(np.uint8)


@pytest.fixture
def rgba() -> Image.Image:
    """Every alpha, with every colour."""
    rng = np.random.default_rng(11)
    pixels = rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    pixels[..., 3] = np.arange(256).reshape(16, 16)
    return Image.fromarray(pixels)


# --- transparency ----------------------------------------------------------------------


@pytest.mark.parametrize("background", [None, [0, 0, 0], [0, 0, 255], (12, 200, 77)])
def test_rgba_on_a_background(
    rgba: Image.Image, encode: Encode, load: Load, background: Any
) -> None:
    options = {} if background is None else {"rgba_background_color": background}
    expected = over(rgba, list(background or [255, 255, 255]))
    files = [encode(rgba, "PNG"), encode(rgba, "WebP", lossless=True, exact=True)]
    for value in (rgba, np.asarray(rgba), *files):
        np.testing.assert_array_equal(load(value, **options), expected)


def test_other_transparent_modes(rgba: Image.Image, encode: Encode, load: Load) -> None:
    grey = rgba.convert("LA")
    for value in (grey, encode(grey, "PNG")):
        np.testing.assert_array_equal(
            load(value, rgba_background_color=BLUE), over(grey.convert("RGBA"), BLUE)
        )
    for mode in ("RGBa", "La"):
        premultiplied = (rgba if mode == "RGBa" else grey).convert(mode)
        straight = premultiplied.convert({"RGBa": "RGBA", "La": "LA"}[mode]).convert("RGBA")
        np.testing.assert_array_equal(
            load(premultiplied, rgba_background_color=BLUE), over(straight, BLUE)
        )


def test_colour_keys(encode: Encode, load: Load) -> None:
    palette = Image.new("P", (4, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    palette.putdata([0, 1, 2, 3])
    expected = [[[10, 20, 30], BLUE, [70, 80, 90], [1, 2, 3]]]
    gif = encode(palette, "GIF", transparency=1)
    assert load(gif, rgba_background_color=BLUE).tolist() == expected
    png = encode(palette, "PNG", transparency=1)
    assert load(png, rgba_background_color=BLUE).tolist() == expected
    half = encode(palette, "PNG", transparency=bytes([255, 0, 128, 255]))
    expected[0][2] = over([[[70, 80, 90, 128]]], BLUE)[0, 0].tolist()
    assert load(half, rgba_background_color=BLUE).tolist() == expected
    grey = Image.new("L", (2, 1))
    grey.putdata([7, 200])
    assert load(encode(grey, "PNG", transparency=200), rgba_background_color=BLUE).tolist() == [
        [[7, 7, 7], BLUE]
    ]
    color = Image.new("RGB", (2, 1), (1, 2, 3))
    color.putpixel((1, 0), (9, 8, 7))
    key = encode(color, "PNG", transparency=(9, 8, 7))
    assert load(key, rgba_background_color=BLUE).tolist() == [[[1, 2, 3], BLUE]]


def test_opaque_pictures_ignore_the_background(noise: Image.Image, load: Load) -> None:
    np.testing.assert_array_equal(load(noise, rgba_background_color=BLUE), np.asarray(noise))


# --- modes -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_modes_that_pillow_converts(noise: Image.Image, load: Load, mode: str) -> None:
    value = noise.convert(mode)
    np.testing.assert_array_equal(load(value), np.asarray(value.convert("RGB")))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "CMYK", "LA", "La", "PA", "RGBA", "RGBa", "RGBX", "I;16", "F"]
)
@pytest.mark.parametrize("key", [None, 7])
def test_strips_do_not_show(
    rgba: Image.Image, load: Load, monkeypatch: pytest.MonkeyPatch, mode: str, key: int | None
) -> None:
    """Whatever is converted row by row is what is converted as a whole."""
    way = {"LA": ["LA"], "La": ["LA", "La"], "PA": ["P", "PA"], "RGBa": ["RGBa"]}
    value = rgba
    for step in way.get(mode, ["RGB", "L", mode] if mode in ("1", "I;16", "F") else [mode]):
        value = value.convert(step)
    if key is not None:
        value.info["transparency"] = (key,) * 3 if mode == "RGB" else key
    whole = load(value, rgba_background_color=BLUE)
    for strip_bytes in (1, 4 * 16 * 5):
        monkeypatch.setattr(pictures, "STRIP_BYTES", strip_bytes)
        np.testing.assert_array_equal(load(value, rgba_background_color=BLUE), whole)


FILES = {
    "JPEG": ["RGB", "L", "CMYK"],
    "PNG": ["RGB", "L", "P", "1"],
    "WebP": ["RGB"],
    "GIF": ["P", "L"],
    "BMP": ["RGB", "L", "P", "1"],
}


@pytest.mark.parametrize(("name", "mode"), [(n, mode) for n in FILES for mode in FILES[n]])
def test_files_as_pillow_opens_them(
    noise: Image.Image, encode: Encode, load: Load, name: str, mode: str
) -> None:
    data = encode(noise.convert(mode), name)
    np.testing.assert_array_equal(
        load(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


def test_sixteen_bits_keep_their_high_byte(encode: Encode, load: Load) -> None:
    samples = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    picture = Image.fromarray(samples)
    assert picture.mode == "I;16"
    expected = [[[v, v, v] for v in (0, 0, 1, 0x12, 0xFF)]]
    assert load(picture).tolist() == expected
    assert load(encode(picture, "PNG")).tolist() == expected
    assert load(Image.fromarray(samples.astype(">u2"))).tolist() == expected


def test_a_sixteen_bit_colour_key(encode: Encode, load: Load) -> None:
    samples = np.array([[0x1200, 0x1234]], dtype=np.uint16)
    data = encode(Image.fromarray(samples), "PNG", transparency=0x1234)
    assert load(data, rgba_background_color=BLUE).tolist() == [[[0x12] * 3, BLUE]]


def test_wide_modes_follow_the_rule_of_arrays(load: Load) -> None:
    assert load(Image.fromarray(np.array([[0, 7, 255]], np.int32))).tolist() == [
        [[0, 0, 0], [7, 7, 7], [255, 255, 255]]
    ]
    assert load(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]
    with pytest.raises(MediaError, match="go from 0 to 256"):
        load(Image.fromarray(np.array([[0, 256]], np.int32)))


def test_a_mode_without_conversion(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Image.Image, mode: str) -> None:
        raise ValueError(f"conversion to {mode} at 0x7fff1234 not supported")

    picture = Image.new("CMYK", (2, 2))
    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(MediaError, match=r"^a PIL image of mode CMYK can't be turned into RGB\.$"):
        load(picture)


# --- orientation -----------------------------------------------------------------------


def turned(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP"])
def test_all_orientations_as_pillow_turns_them(
    noise: Image.Image, encode: Encode, load: Load, tag: int, name: str
) -> None:
    data = encode(noise, name, exif=turned(tag), **({"lossless": True} if name == "WebP" else {}))
    opened = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert expected.shape[:2] == ((17, 13) if tag >= 5 else (13, 17))
    np.testing.assert_array_equal(load(data), expected)
    np.testing.assert_array_equal(load(Image.open(io.BytesIO(data))), expected)
    np.testing.assert_array_equal(load(opened), expected)


def test_an_orientation_set_by_the_caller(noise: Image.Image, load: Load) -> None:
    noise.getexif()[0x0112] = 3
    kind = ImageKind({})
    np.testing.assert_array_equal(
        kind.load([ValueSource(noise)]).value, np.asarray(noise)[::-1, ::-1]
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x"])
def test_damaged_metadata_does_not_hide_the_picture(
    noise: Image.Image, encode: Encode, load: Load, exif: bytes
) -> None:
    data = encode(noise, "PNG", exif=exif)
    np.testing.assert_array_equal(load(data), np.asarray(noise))


@pytest.mark.parametrize("tag", [0, 9, 255])
def test_an_orientation_out_of_range_is_upright(
    noise: Image.Image, encode: Encode, load: Load, tag: int
) -> None:
    np.testing.assert_array_equal(load(encode(noise, "PNG", exif=turned(tag))), np.asarray(noise))


# --- frames ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GIF", "WebP", "PNG"])
def test_the_first_frame_of_a_file_and_the_current_one_of_a_value(
    encode: Encode, load: Load, name: str
) -> None:
    frames = [Image.new("RGB", (4, 3), color) for color in ((250, 0, 0), (0, 250, 0))]
    data = encode(frames[0], name, save_all=True, append_images=frames[1:], lossless=True)
    assert load(data)[0, 0].tolist() == [250, 0, 0]
    opened = Image.open(io.BytesIO(data))
    opened.seek(1)
    assert load(opened)[0, 0].tolist() == [0, 250, 0]
    assert opened.tell() == 1


# --- callers' images -------------------------------------------------------------------


def test_a_closed_file_is_told(tmp_path: Any, noise: Image.Image, load: Load) -> None:
    noise.save(tmp_path / "a.png")
    opened = Image.open(tmp_path / "a.png")
    opened.close()
    with pytest.raises(MediaError, match="can't be read: its file is damaged or closed"):
        load(opened)


def test_a_damaged_lazy_image_is_told(noise: Image.Image, encode: Encode, load: Load) -> None:
    opened = Image.open(io.BytesIO(encode(noise, "PNG")[:-100]))
    with pytest.raises(MediaError, match="can't be read"):
        load(opened)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_the_callers_image_is_left_as_it_is(noise: Image.Image, load: Load, mode: str) -> None:
    value = noise.convert(mode)
    value.getexif()[0x0112] = 6
    before = (value.mode, value.size, value.tobytes(), value.getpalette(), dict(value.info))
    kind = ImageKind({})
    kind.digest([ValueSource(value)])
    kind.load([ValueSource(value)])
    assert before == (
        value.mode,
        value.size,
        value.tobytes(),
        value.getpalette(),
        dict(value.info),
    )
    assert value.getexif()[0x0112] == 6


def test_an_unexpected_value_is_told() -> None:
    with pytest.raises(MediaError, match="it is a dict, which is no form of an image"):
        ImageKind({}).load([ValueSource({})])
    with pytest.raises(MediaError, match="no image in an allowed format"):
        ImageKind({}).load([BytesSource(b"")])
