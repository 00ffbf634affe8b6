"""Draws the pictures that ``ImageAsset`` ships: python packages/media-image/tools/draw_assets.py

Everything is drawn at four times the size and reduced, so that edges are smooth.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parents[1] / "src" / "sensorium_media_image" / "asset_files"
SCALE = 4
Color = tuple[int, int, int]


def sky(width: int, height: int, top: Color, bottom: Color) -> Image.Image:
    """A vertical run from one colour to another."""
    column = Image.new("RGB", (1, height))
    for y in range(height):
        part = y / (height - 1)
        red, green, blue = (round(a + (b - a) * part) for a, b in zip(top, bottom, strict=True))
        column.putpixel((0, y), (red, green, blue))
    return column.resize((width, height))


def branch(
    draw: ImageDraw.ImageDraw,
    rng: random.Random,
    start: tuple[float, float],
    angle: float,
    length: float,
    width: float,
    blossoms: list[tuple[float, float]],
) -> None:
    """A branch with its twigs; where blossoms belong is added to ``blossoms``."""
    end = (start[0] + length * math.cos(angle), start[1] - length * math.sin(angle))
    draw.line([start, end], fill=(92, 64, 51), width=max(1, round(width)))
    if width < 10:
        blossoms += [end, ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)]
    if width < 4:
        return
    for turn in (-0.5, 0.1, 0.55):
        branch(
            draw,
            rng,
            end,
            angle + turn + rng.uniform(-0.2, 0.2),
            length * rng.uniform(0.6, 0.8),
            width * 0.6,
            blossoms,
        )


def blossom(
    draw: ImageDraw.ImageDraw, rng: random.Random, center: tuple[float, float], radius: float
) -> None:
    """Five petals around a yellow middle."""
    tilt = rng.uniform(0, math.tau)
    pink = rng.choice([(255, 183, 197), (255, 200, 214), (250, 160, 185), (255, 219, 228)])
    for petal in range(5):
        angle = tilt + petal * math.tau / 5
        x = center[0] + 0.7 * radius * math.cos(angle)
        y = center[1] + 0.7 * radius * math.sin(angle)
        size = 0.6 * radius
        draw.ellipse([x - size, y - size, x + size, y + size], fill=pink)
    size = 0.3 * radius
    x, y = center
    draw.ellipse([x - size, y - size, x + size, y + size], fill=(235, 190, 60))


def cherry_blossom() -> Image.Image:
    """A cherry tree in bloom in front of a blue sky."""
    rng = random.Random(7)
    width, height = 480 * SCALE, 360 * SCALE
    image = sky(width, height, (96, 160, 224), (190, 222, 245))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0.9 * height, width, height], fill=(110, 160, 90))
    blossoms: list[tuple[float, float]] = []
    trunk = (0.5 * width, 0.95 * height)
    branch(draw, rng, trunk, math.pi / 2, 0.26 * height, 64, blossoms)
    for center in blossoms:
        blossom(draw, rng, center, rng.uniform(6, 11) * SCALE)
    return image.resize((480, 360), Image.Resampling.LANCZOS)


def octagon(center: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    """Corners of an octagon that stands on an edge."""
    angles = [math.pi / 8 + corner * math.pi / 4 for corner in range(8)]
    return [(center[0] + radius * math.cos(a), center[1] + radius * math.sin(a)) for a in angles]


def stop_sign() -> Image.Image:
    """A red stop sign on a pole beside a road."""
    width, height = 360 * SCALE, 480 * SCALE
    image = sky(width, height, (130, 180, 230), (220, 235, 245))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0.78 * height, width, height], fill=(120, 150, 100))
    road = [(0.55 * width, 0.78 * height), (0.7 * width, 0.78 * height), (width, height)]
    draw.polygon([*road, (0.3 * width, height)], fill=(90, 90, 95))
    center, radius = (0.42 * width, 0.34 * height), 0.36 * width
    pole = 8 * SCALE
    draw.rectangle(
        [center[0] - pole / 2, center[1], center[0] + pole / 2, 0.92 * height], fill=(150, 150, 155)
    )
    draw.polygon(octagon(center, radius), fill=(255, 255, 255))
    draw.polygon(octagon(center, 0.94 * radius), fill=(190, 20, 35))
    font = ImageFont.load_default(size=0.58 * radius)
    draw.text(center, "STOP", font=font, fill=(255, 255, 255), anchor="mm", stroke_width=2 * SCALE)
    return image.resize((360, 480), Image.Resampling.LANCZOS)


def main() -> None:
    """Writes all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for draw in (cherry_blossom, stop_sign):
        draw().save(FOLDER / f"{draw.__name__}.jpg", quality=88)


if __name__ == "__main__":
    main()
