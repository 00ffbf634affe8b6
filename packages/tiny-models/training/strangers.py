"""Items that only training has: figures without a name, and colours without one.

Some colour-shape pairs are held out. Seeing them never, a model learns that a hexagon is not
orange, and says so of an orange one. These items take that shortcut away without showing a
held-out pair: the colour is asked of figures that are no named shape, and the shape of things
whose colour is none that questions name.
"""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw

from sensorium_tiny_models import canvas, palette, scene
from sensorium_tiny_models.canvas import Size
from sensorium_tiny_models.palette import COLORS, Shades
from sensorium_tiny_models.questions import Item
from sensorium_tiny_models.shapes import SHAPES, turn

#: Shades in the gaps between the named boxes of `palette.COLORS`.
NAMELESS: tuple[Shades, ...] = (
    Shades((76, 90), (0.6, 1.0), (0.75, 1.0)),
    Shades((156, 166), (0.6, 1.0), (0.6, 0.95)),
    Shades((196, 203), (0.6, 1.0), (0.8, 1.0)),
    Shades((298, 312), (0.6, 1.0), (0.6, 0.95)),
    Shades((345, 351), (0.6, 0.9), (0.35, 0.5)),
    Shades((62, 70), (0.6, 1.0), (0.35, 0.55)),
    Shades((38, 45), (0.25, 0.45), (0.78, 0.9)),
    Shades((225, 245), (0.15, 0.35), (0.65, 0.85)),
)


def nameless_figure(rng: random.Random, size: Size) -> Item:
    """The colour of a figure that is no named shape."""
    color = rng.choice(tuple(COLORS))
    ink = palette.shade(rng, color)
    image = canvas.start(rng, size, [ink])
    ((x, y, radius),) = scene.spots(rng, size, 1)
    _paint_figure(rng, image, ink, x, y, radius)
    question = rng.choice(
        ("What color is the figure?", "What colour is the figure?",
         "Which color does the figure have?", "Tell me the color of the figure.")
    )  # fmt: skip
    return Item("color", (canvas.grain(rng, image),), question, f"The figure is {color}.")


def nameless_color(rng: random.Random, size: Size) -> Item:
    """The shape of a thing whose colour has no name."""
    shape, box = rng.choice(SHAPES), rng.choice(NAMELESS)
    ink = palette.hsv(rng.uniform(*box.hue), rng.uniform(*box.saturation), rng.uniform(*box.value))
    image = canvas.start(rng, size, [ink])
    ((x, y, radius),) = scene.spots(rng, size, 1)
    canvas.put_shape(image, shape, ink, x, y, radius, turn(rng, shape))
    article = "an" if shape[0] in "aeiou" else "a"
    question = rng.choice(
        ("What shape is this?", "Which shape do you see?", "What shape is in the picture?")
    )
    answer = f"The shape is {article} {shape}."
    return Item("shape", (canvas.grain(rng, image),), question, answer)


def _paint_figure(
    rng: random.Random, image: Image.Image, ink: palette.Rgb, x: float, y: float, radius: float
) -> None:
    """A closed line around the centre whose distance from it wanders at random."""
    fine = 3
    side = 2 * math.ceil(radius) + 3
    mask = Image.new("L", (side * fine, side * fine), 0)
    count = rng.randint(5, 13)
    start = rng.uniform(0, 2 * math.pi)
    points = []
    for i in range(count):
        angle = start + 2 * math.pi * (i + rng.uniform(-0.3, 0.3)) / count
        reach = radius * fine * rng.uniform(0.45, 1.0)
        points.append((side * fine / 2 + reach * math.cos(angle),
                       side * fine / 2 + reach * math.sin(angle)))  # fmt: skip
    ImageDraw.Draw(mask).polygon(points, fill=255)
    mask = mask.reduce(fine)
    image.paste(ink, (round(x - side / 2), round(y - side / 2)), mask)
