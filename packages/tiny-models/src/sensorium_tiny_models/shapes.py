"""The shapes that questions name, as anti-aliased masks of any size and rotation.

Knows geometry only: no colours, no places, no questions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

Points = list[tuple[float, float]]


def _regular(corners: int) -> Points:
    return [
        (math.sin(2 * math.pi * i / corners), -math.cos(2 * math.pi * i / corners))
        for i in range(corners)
    ]


def _star() -> Points:
    points = []
    for i in range(10):
        radius = 1.0 if i % 2 == 0 else 0.42
        points.append((radius * math.sin(math.pi * i / 5), -radius * math.cos(math.pi * i / 5)))
    return points


def _heart() -> Points:
    points = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, -(y + 2.5) / 17))
    return points


def _cross() -> Points:
    a, b = 0.3, 0.92
    return [
        (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
        (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
    ]  # fmt: skip


_POLYGONS: dict[str, Points] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": _regular(3),
    "star": _star(),
    "diamond": [(0, -1), (0.6, 0), (0, 1), (-0.6, 0)],
    "heart": _heart(),
    "cross": _cross(),
    "hexagon": _regular(6),
}

# shape: the rotations, in degrees, under which it keeps its name (a square on its corner does not)
_TURNS: dict[str, Callable[[random.Random], float]] = {
    "circle": lambda rng: 0.0,
    "square": lambda rng: rng.uniform(-18, 18),
    "triangle": lambda rng: rng.uniform(0, 360),
    "star": lambda rng: rng.uniform(0, 360),
    "diamond": lambda rng: rng.uniform(-14, 14) + rng.choice((0, 90)),
    "heart": lambda rng: rng.uniform(-30, 30),
    "cross": lambda rng: rng.uniform(-18, 18),
    "ring": lambda rng: 0.0,
    "hexagon": lambda rng: rng.uniform(0, 360),
    "moon": lambda rng: rng.uniform(0, 360),
}

SHAPES: tuple[str, ...] = tuple(_TURNS)


def turn(rng: random.Random, shape: str) -> float:
    """Draw a rotation, in degrees, that the shape's name allows; three in ten stand upright."""
    angle = _TURNS[shape](rng)
    return angle if shape == "moon" or rng.random() < 0.7 else 0.0


def mask(shape: str, radius: float, degrees: float) -> Image.Image:
    """An `L` mask of side about 2·radius + 3 pixels, the shape centred in it."""
    fine = 3 if radius < 40 else 2
    side = 2 * math.ceil(radius) + 3
    canvas = Image.new("L", (side * fine, side * fine), 0)
    draw = ImageDraw.Draw(canvas)
    middle, reach = side * fine / 2, radius * fine
    if shape in _POLYGONS:
        draw.polygon(_placed(_POLYGONS[shape], middle, reach, degrees), fill=255)
    else:
        reach *= 0.94
        _disc(draw, middle, middle, reach, 255)
        if shape == "ring":
            _disc(draw, middle, middle, reach * 0.55, 0)
        elif shape == "moon":
            angle = math.radians(degrees)
            offset = reach * 0.5
            _disc(
                draw,
                middle + offset * math.cos(angle),
                middle + offset * math.sin(angle),
                reach * 0.82,
                0,
            )
    return canvas.reduce(fine)


def _placed(points: Points, middle: float, reach: float, degrees: float) -> Points:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [
        (middle + reach * (x * cosine - y * sine), middle + reach * (x * sine + y * cosine))
        for x, y in points
    ]


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
