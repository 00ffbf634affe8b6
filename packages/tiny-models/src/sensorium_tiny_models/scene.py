"""Arrangements of shapes that do not touch, and their pictures.

A `Scene` is the truth that answers are taken from: questions read it, never the pixels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from . import canvas, palette, shapes
from .canvas import Size
from .palette import COLORS, HELD_OUT_PAIRS
from .shapes import SHAPES

Pair = tuple[str, str]  # colour, shape
Spot = tuple[float, float, float]  # x, y, radius, in pixels

ALL_PAIRS: tuple[Pair, ...] = tuple((color, shape) for color in COLORS for shape in SHAPES)
TRAINING_PAIRS: tuple[Pair, ...] = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT_PAIRS)
UNSEEN_PAIRS: tuple[Pair, ...] = tuple(pair for pair in ALL_PAIRS if pair in HELD_OUT_PAIRS)


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape in a picture; x, y and radius in pixels."""

    color: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's size (width, height) and what is in it."""

    size: Size
    things: tuple[Thing, ...]


def spots(rng: random.Random, size: Size, count: int, fixed: tuple[Spot, ...] = ()) -> list[Spot]:
    """Places for `count` shapes that keep apart from each other and from the `fixed` ones."""
    small = min(size)
    most = 0.42 if count + len(fixed) == 1 else max(0.13, 0.36 / (count + len(fixed)) ** 0.55)
    scale = 1.0
    while True:
        placed: list[Spot] = list(fixed)
        for _ in range(count):
            for _ in range(40):
                radius = max(8.0, rng.uniform(0.5, 1.0) * most * small * scale)
                x = rng.uniform(radius + 1, size[0] - radius - 1)
                y = rng.uniform(radius + 1, size[1] - radius - 1)
                if all(_apart((x, y, radius), other) for other in placed):
                    placed.append((x, y, radius))
                    break
            else:
                break
        if len(placed) == count + len(fixed):
            return placed[len(fixed) :]
        scale *= 0.85


def _apart(one: Spot, other: Spot) -> bool:
    reach = one[2] + other[2] + 2
    return (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2 > reach * reach


def arrange(
    rng: random.Random, size: Size, pairs: list[Pair], fixed: tuple[Spot, ...] = ()
) -> Scene:
    """Place the pairs: the first ones on the `fixed` spots, the others wherever there is room."""
    places = [*fixed, *spots(rng, size, len(pairs) - len(fixed), fixed)]
    return Scene(
        size,
        tuple(Thing(*pair, *place) for pair, place in zip(pairs, places, strict=True)),
    )


def paint(rng: random.Random, scene: Scene) -> Image.Image:
    """Draw the scene. Things of one colour share a shade in half of the pictures."""
    uniform = {color: palette.shade(rng, color) for color in COLORS} if rng.random() < 0.5 else {}
    inks = [uniform.get(thing.color) or palette.shade(rng, thing.color) for thing in scene.things]
    image = canvas.start(rng, scene.size, inks)
    edge = rng.choice(((15, 15, 15), (245, 245, 245))) if rng.random() < 0.12 else None
    for thing, ink in zip(scene.things, inks, strict=True):
        degrees = shapes.turn(rng, thing.shape)
        radius = thing.radius
        if edge is not None and palette.distance(edge, ink) > 150 and radius > 14:
            canvas.put_shape(image, thing.shape, edge, thing.x, thing.y, radius, degrees)
            radius -= 2
        canvas.put_shape(image, thing.shape, ink, thing.x, thing.y, radius, degrees)
    return canvas.grain(rng, image)
