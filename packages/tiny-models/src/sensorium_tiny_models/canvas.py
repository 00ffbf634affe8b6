"""A picture in the making: background, shapes, text, grain.

Knows how things look, not what is asked about them. Every random choice comes from the caller's
generator, so a seed gives the same picture wherever the same Pillow draws it.
"""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw

from . import fonts, palette, shapes
from .palette import Rgb

Size = tuple[int, int]  # width, height


def start(rng: random.Random, size: Size, apart_from: list[Rgb]) -> Image.Image:
    """A background from which the given colours stand out: plain, a gradient, or striped."""
    first = palette.background(rng, apart_from)
    kind = rng.random()
    if kind < 0.55:
        return Image.new("RGB", size, first)
    second = _nearby(rng, first, apart_from)
    if kind < 0.8:
        return _gradient(rng, size, first, second)
    return _striped(rng, size, first, second)


def _nearby(rng: random.Random, color: Rgb, apart_from: list[Rgb]) -> Rgb:
    """A second background colour: close to the first, and as far from the shapes' colours."""
    for _ in range(6):
        red, green, blue = (min(255, max(0, c + rng.randint(-36, 36))) for c in color)
        if all(palette.distance((red, green, blue), other) >= 120 for other in apart_from):
            return red, green, blue
    return color


def _gradient(rng: random.Random, size: Size, first: Rgb, second: Rgb) -> Image.Image:
    small = Image.new("RGB", (2, 2), first)
    small.putpixel((1, 1), second)
    small.putpixel(rng.choice(((0, 1), (1, 0))), second)
    return small.resize(size, Image.Resampling.BILINEAR)


def _striped(rng: random.Random, size: Size, first: Rgb, second: Rgb) -> Image.Image:
    image = Image.new("RGB", size, first)
    draw = ImageDraw.Draw(image)
    step = rng.randint(8, 40)
    upright = rng.random() < 0.5
    for at in range(rng.randint(0, step), max(size), 2 * step):
        box = (at, 0, at + step - 1, size[1]) if upright else (0, at, size[0], at + step - 1)
        draw.rectangle(box, fill=second)
    return image


def put_shape(
    image: Image.Image, shape: str, color: Rgb, x: float, y: float, radius: float, degrees: float
) -> None:
    """Paint one shape centred at (x, y), in pixels."""
    mask = shapes.mask(shape, radius, degrees)
    image.paste(color, (round(x - mask.width / 2), round(y - mask.height / 2)), mask)


def put_text(rng: random.Random, image: Image.Image, text: str, font_id: str, ink: Rgb) -> None:
    """Write `text` once, somewhere, somewhat turned, as large as chance and the picture allow."""
    tile = _text_tile(rng, image.size, text, font_id)
    x = rng.randint(0, max(0, image.width - tile.width))
    y = rng.randint(0, max(0, image.height - tile.height))
    image.paste(ink, (x, y), tile)


def _text_tile(rng: random.Random, size: Size, text: str, font_id: str) -> Image.Image:
    width, height = size
    degrees = rng.uniform(-12, 12) if rng.random() < 0.6 else 0.0
    room = 0.94 if degrees == 0.0 else 0.86
    points = round(rng.uniform(0.16, 0.62) * min(width, height))
    natural = fonts.load(font_id, 40).getlength(text) / 40
    points = max(15, min(points, int(room * width / natural), int(0.8 * height)))
    font = fonts.load(font_id, points)
    left, top, right, bottom = font.getbbox(text)
    tile = Image.new("L", (int(right - left) + 6, int(bottom - top) + 6), 0)
    draw = ImageDraw.Draw(tile)
    draw.text((3 - left, 3 - top), text, font=font, fill=255)
    if degrees:
        tile = tile.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    if tile.width > width or tile.height > height:
        tile.thumbnail(size, Image.Resampling.BILINEAR)
    return tile


def ink_for(rng: random.Random, paper: Rgb) -> Rgb:
    """An ink that can be read on `paper`: far from it in brightness."""
    light = _brightness(paper)
    for _ in range(30):
        ink = palette.hsv(rng.uniform(0, 360), rng.uniform(0, 1) ** 1.5, rng.uniform(0, 1))
        if abs(_brightness(ink) - light) > 85:
            return ink
    return (0, 0, 0) if light > 127 else (255, 255, 255)


def _brightness(color: Rgb) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def grain(rng: random.Random, image: Image.Image) -> Image.Image:
    """Sometimes add a little noise per pixel, as a camera would."""
    return image if rng.random() < 0.7 else speckled(rng, image, rng.randint(2, 12))


def speckled(rng: random.Random, image: Image.Image, strength: int) -> Image.Image:
    """The image with noise of up to ``strength`` levels in each value."""
    noise = np.random.Generator(np.random.PCG64(rng.getrandbits(64)))
    shape = (image.height, image.width, 3)
    speckle = noise.integers(-strength, strength + 1, size=shape, dtype=np.int8)
    pixels = np.asarray(image).astype(np.int16) + speckle
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
