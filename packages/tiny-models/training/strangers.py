"""Items that only training has: shapes and colours with names that no other question uses.

Some colour-shape pairs are held out. Seeing them never, a model learns that a hexagon is not
orange, and says so of an orange one. These items take that shortcut away without showing a
held-out pair: the named colours are asked of strange shapes, and the named shapes of things in
strange colours, alone and beside the bystanders that the ordinary questions have.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from sensorium_tiny_models import canvas, palette, scene
from sensorium_tiny_models.canvas import Size
from sensorium_tiny_models.clips import Cast
from sensorium_tiny_models.palette import COLORS, Rgb, Shades
from sensorium_tiny_models.questions import Item
from sensorium_tiny_models.scene import TRAINING_PAIRS
from sensorium_tiny_models.shapes import SHAPES, mask, turn

#: Shades in the gaps between the named boxes of `palette.COLORS`.
STRANGE_COLORS: dict[str, Shades] = {
    "lime": Shades((76, 90), (0.6, 1.0), (0.75, 1.0)),
    "mint": Shades((156, 166), (0.6, 1.0), (0.6, 0.95)),
    "sky": Shades((196, 203), (0.6, 1.0), (0.8, 1.0)),
    "plum": Shades((298, 312), (0.6, 1.0), (0.6, 0.95)),
    "wine": Shades((345, 351), (0.6, 0.9), (0.35, 0.5)),
    "olive": Shades((62, 70), (0.6, 1.0), (0.35, 0.55)),
    "sand": Shades((38, 45), (0.25, 0.45), (0.78, 0.9)),
    "slate": Shades((225, 245), (0.15, 0.35), (0.65, 0.85)),
}

Points = list[tuple[float, float]]

#: Outlines within the unit circle, unlike any of `shapes.SHAPES`; "blob" is drawn anew each time.
STRANGE_SHAPES: dict[str, Points] = {
    "oval": [(math.sin(t / 6), 0.5 * math.cos(t / 6)) for t in range(38)],
    "bar": [(-0.98, -0.2), (0.98, -0.2), (0.98, 0.2), (-0.98, 0.2)],
    "arrow": [(0, -1), (0.75, -0.1), (0.28, -0.1), (0.28, 0.95), (-0.28, 0.95), (-0.28, -0.1),
              (-0.75, -0.1)],
    "house": [(0, -1), (0.8, -0.25), (0.8, 0.6), (-0.8, 0.6), (-0.8, -0.25)],
    "bolt": [(0.3, -0.95), (-0.55, 0.15), (-0.05, 0.15), (-0.3, 0.95), (0.55, -0.2), (0.05, -0.2)],
    "step": [(-0.7, -0.7), (0, -0.7), (0, 0), (0.7, 0), (0.7, 0.7), (-0.7, 0.7)],
    "fan": [(0, 0.7)]
    + [(math.sin(t / 8) * 0.95, 0.7 - 1.5 * math.cos(t / 8)) for t in range(-6, 7)],
    "blob": [],
}  # fmt: skip


def strange_shape(rng: random.Random, size: Size) -> Item:
    """The named colour of a strange shape."""
    color, shape = rng.choice(tuple(COLORS)), rng.choice(tuple(STRANGE_SHAPES))
    image, ink, spot = _stage(rng, size, palette.shade(rng, color), TRAINING_PAIRS)
    points = STRANGE_SHAPES[shape] or _blob(rng)
    _paint(image, points, ink, spot, rng.uniform(0, 2 * math.pi))
    question = rng.choice(
        (f"What color is the {shape}?", f"What colour is the {shape}?",
         f"Which color does the {shape} have?", f"Tell me the color of the {shape}.")
    )  # fmt: skip
    return Item("color", (canvas.grain(rng, image),), question, f"The {shape} is {color}.")


def strange_color(rng: random.Random, size: Size) -> Item:
    """The named shape, or the strange colour, of a named shape in a strange colour."""
    shape, color = rng.choice(SHAPES), rng.choice(tuple(STRANGE_COLORS))
    others = tuple(pair for pair in TRAINING_PAIRS if pair[1] != shape)
    image, ink, (x, y, radius) = _stage(rng, size, _strange_shade(rng, color), others)
    canvas.put_shape(image, shape, ink, x, y, radius, turn(rng, shape))
    article = "an" if shape[0] in "aeiou" else "a"
    if rng.random() < 0.3:
        question, answer = f"What color is the {shape}?", f"The {shape} is {color}."
    else:
        question = rng.choice(
            (f"What shape is the {color} one?", f"Which shape is {color}?",
             f"What is the {color} shape?")
        )  # fmt: skip
        answer = f"The {color} shape is {article} {shape}."
    return Item("shape", (canvas.grain(rng, image),), question, answer)


def _stage(
    rng: random.Random, size: Size, ink: Rgb, others: tuple[scene.Pair, ...]
) -> tuple[Image.Image, Rgb, scene.Spot]:
    """A background with some of `others` on it, and the spot left free for a thing of `ink`."""
    spot, *places = scene.spots(rng, size, 1 + rng.choice((0, 0, 1, 2, 3)))
    pairs = [rng.choice(others) for _ in places]
    inks = [palette.shade(rng, color) for color, _ in pairs]
    image = canvas.start(rng, size, [ink, *inks])
    for (_, shape), shade, (x, y, radius) in zip(pairs, inks, places, strict=True):
        canvas.put_shape(image, shape, shade, x, y, radius, turn(rng, shape))
    return image, ink, spot


def _blob(rng: random.Random) -> Points:
    """A closed line around the centre whose distance from it wanders at random."""
    count = rng.randint(5, 13)
    angles = [2 * math.pi * (i + rng.uniform(-0.3, 0.3)) / count for i in range(count)]
    reach = [rng.uniform(0.45, 1.0) for _ in angles]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(reach, angles, strict=True)]


def _paint(image: Image.Image, points: Points, ink: Rgb, spot: scene.Spot, angle: float) -> None:
    x, y, radius = spot
    outline = _outline(points, radius, angle)
    side = outline.width
    image.paste(ink, (round(x - side / 2), round(y - side / 2)), outline)


def _outline(points: Points, radius: float, angle: float) -> Image.Image:
    """An `L` mask of a polygon within the unit circle, turned by ``angle`` radians."""
    fine = 3
    side = 2 * math.ceil(radius) + 3
    middle, reach = side * fine / 2, radius * fine
    cosine, sine = math.cos(angle), math.sin(angle)
    placed = [
        (middle + reach * (a * cosine - b * sine), middle + reach * (a * sine + b * cosine))
        for a, b in points
    ]
    large = Image.new("L", (side * fine, side * fine), 0)
    ImageDraw.Draw(large).polygon(placed, fill=255)
    return large.reduce(fine)


def _strange_shade(rng: random.Random, color: str) -> Rgb:
    box = STRANGE_COLORS.get(color)
    if box is None:
        return palette.shade(rng, color)
    return palette.hsv(rng.uniform(*box.hue), rng.uniform(*box.saturation), rng.uniform(*box.value))


def _strange_turn(rng: random.Random, shape: str) -> float:
    return turn(rng, shape) if shape in SHAPES else rng.uniform(0, 360)


def _strange_mask(shape: str, radius: float, degrees: float) -> Image.Image:
    """A blob's outline follows from its rotation, so that it is another one each time."""
    if shape in SHAPES:
        return mask(shape, radius, degrees)
    points = STRANGE_SHAPES[shape] or _blob(random.Random(degrees))
    return _outline(points, radius, math.radians(degrees))


#: Clips in which the named colours are strange shapes', and the named shapes in strange colours.
STRANGE_CAST = Cast(
    subjects=tuple((color, shape) for color in COLORS for shape in STRANGE_SHAPES)
    + tuple((color, shape) for color in STRANGE_COLORS for shape in SHAPES),
    others=TRAINING_PAIRS,
    shade=_strange_shade,
    turn=_strange_turn,
    mask=_strange_mask,
)
