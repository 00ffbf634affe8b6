"""The questions: each draws a scene in which it has one true answer, and says that answer.

Every drawing function takes (rng, size, split) and returns an `Item`; `DRAWERS` is the table of
them. To add a type of question, write one and add its row.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from . import canvas, fonts, palette, words
from .canvas import Size
from .palette import COLORS
from .scene import (
    ALL_PAIRS,
    TRAINING_PAIRS,
    UNSEEN_PAIRS,
    Pair,
    Scene,
    arrange,
    paint,
)
from .shapes import SHAPES

TRAIN, HELD_OUT = "train", "heldout"
SPLITS = (TRAIN, HELD_OUT)

# How many other things stand around the one whose colour or shape is asked for.
_BYSTANDERS = (0, 0, 1, 2, 3)

_NUMERALS = ("no", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one or two pictures, or about a clip, with its answer.

    `scenes` and `text` are the truth that the answer is taken from: one scene per picture or frame
    that shows shapes, or the text that the picture shows. `clip` are the frames of a clip
    (`clips.py`).
    """

    question_type: str
    images: tuple[Image.Image, ...]
    question: str
    answer: str
    scenes: tuple[Scene, ...] = ()
    text: str = ""
    font_id: str = ""
    clip: tuple[Image.Image, ...] = ()


def _subject(rng: random.Random, split: str) -> Pair:
    """The pair asked about: in the held-out split one that training never shows."""
    return rng.choice(UNSEEN_PAIRS if split == HELD_OUT else TRAINING_PAIRS)


def _pairs(split: str) -> tuple[Pair, ...]:
    return ALL_PAIRS if split == HELD_OUT else TRAINING_PAIRS


def _others(
    rng: random.Random, split: str, count: int, avoid: Pair, *, color: bool, shape: bool
) -> list[Pair]:
    """Bystanders that differ from `avoid` in colour and/or shape, so that the answer is unique."""
    fitting = [
        pair
        for pair in _pairs(split)
        if not (color and pair[0] == avoid[0]) and not (shape and pair[1] == avoid[1])
    ]
    return [rng.choice(fitting) for _ in range(count)]


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _plural(shape: str) -> str:
    return {"cross": "crosses"}.get(shape, f"{shape}s")


def color_item(rng: random.Random, size: Size, split: str) -> Item:
    """The colour of the one shape of its kind."""
    subject = _subject(rng, split)
    count = rng.choice(_BYSTANDERS)
    pairs = [subject, *_others(rng, split, count, subject, color=False, shape=True)]
    scene = arrange(rng, size, pairs)
    color, shape = subject
    question = rng.choice(
        (
            f"What color is the {shape}?",
            f"What colour is the {shape}?",
            f"Which color does the {shape} have?",
            f"Tell me the color of the {shape}.",
        )
    )
    return Item("color", (paint(rng, scene),), question, f"The {shape} is {color}.", (scene,))


def shape_item(rng: random.Random, size: Size, split: str) -> Item:
    """The shape of the only thing, or of the only thing of its colour."""
    subject = _subject(rng, split)
    count = rng.choice(_BYSTANDERS)
    pairs = [subject, *_others(rng, split, count, subject, color=True, shape=False)]
    scene = arrange(rng, size, pairs)
    color, shape = subject
    asked = [
        f"What shape is the {color} one?",
        f"Which shape is {color}?",
        f"What is the {color} shape?",
    ]
    answer = f"The {color} shape is {_article(shape)}."
    if count == 0 and rng.random() < 0.6:
        asked = ["What shape is this?", "Which shape do you see?", "What shape is in the picture?"]
        answer = f"The shape is {_article(shape)}."
    return Item("shape", (paint(rng, scene),), rng.choice(asked), answer, (scene,))


def count_item(rng: random.Random, size: Size, split: str) -> Item:
    """How many of a shape, of a colour, or of anything; none now and then, six at most."""
    color, shape = _subject(rng, split)
    count = 0 if rng.random() < 0.06 else rng.randint(1, 6)
    kind = rng.choice(("shape", "color", "all"))
    pool = _pairs(split)
    if kind == "all":
        count = max(count, 1)
        pairs = [rng.choice(pool) for _ in range(count)]
        noun, nouns = "shape", "shapes"
    else:
        matching = [p for p in pool if (p[1] == shape if kind == "shape" else p[0] == color)]
        if rng.random() < 0.5:
            matching = [(color, shape)]
        pairs = [rng.choice(matching) for _ in range(count)]
        bystanders = rng.randint(0 if count else 1, max(1, min(3, 6 - count)))
        pairs += _others(
            rng, split, bystanders, (color, shape), color=kind == "color", shape=kind == "shape"
        )
        noun = shape if kind == "shape" else f"{color} shape"
        nouns = _plural(shape) if kind == "shape" else f"{color} shapes"
    scene = arrange(rng, size, pairs)
    question = rng.choice(
        (
            f"How many {nouns} are there?",
            f"How many {nouns} do you see?",
            f"Count the {nouns}.",
        )
    )
    verb = "is" if count == 1 else "are"
    answer = f"There {verb} {_NUMERALS[count]} {noun if count == 1 else nouns}."
    return Item("count", (paint(rng, scene),), question, answer, (scene,))


def position_item(rng: random.Random, size: Size, split: str) -> Item:
    """In which quarter of the picture a shape lies, or that it lies in the middle."""
    subject = _subject(rng, split)
    width, height = size
    where = rng.choice(("at the top left", "at the top right", "at the bottom left",
                        "at the bottom right", "in the center"))  # fmt: skip
    radius = max(9.0, rng.uniform(0.1, 0.19) * min(size))

    def along(side: int, first: str) -> float:
        if where == "in the center":
            return side * rng.uniform(0.45, 0.55)
        at = rng.uniform(min(radius + 1, 0.3 * side), 0.34 * side)
        return at if first in where else side - at

    spot = (along(width, "left"), along(height, "top"), radius)
    pairs = [subject, *_others(rng, split, rng.choice((0, 1, 2)), subject, color=False, shape=True)]
    scene = arrange(rng, size, pairs, (spot,))
    shape = subject[1]
    question = rng.choice(
        (
            f"Where is the {shape}?",
            f"Where in the picture is the {shape}?",
            f"In which part of the picture is the {shape}?",
        )
    )
    return Item("position", (paint(rng, scene),), question, f"The {shape} is {where}.", (scene,))


def relation_item(rng: random.Random, size: Size, split: str) -> Item:
    """On which side of another shape a shape lies."""
    subject = _subject(rng, split)
    other = _others(rng, split, 1, subject, color=False, shape=True)[0]
    sideways = rng.random() < 0.5
    long_side, short_side = size if sideways else (size[1], size[0])
    radius = rng.uniform(0.1, 0.16) * min(size)
    gap = rng.uniform(max(2.4 * radius, 0.3 * long_side), 0.97 * long_side - 2 * radius - 2)
    low = rng.uniform(radius + 1, long_side - radius - 1 - gap)
    drift = min(0.4 * gap, short_side / 2 - radius - 1)
    middle = short_side / 2
    ends = [(low, middle + rng.uniform(-drift, drift) * 0.5),
            (low + gap, middle + rng.uniform(-drift, drift) * 0.5)]  # fmt: skip
    first_is_low = rng.random() < 0.5
    if not first_is_low:
        ends.reverse()
    places = tuple((a, b, radius) if sideways else (b, a, radius) for a, b in ends)
    scene = arrange(rng, size, [subject, other], places)
    sides = ("to the left of", "to the right of") if sideways else ("above", "below")
    side = sides[0] if first_is_low else sides[1]
    one, two = subject[1], other[1]
    question = rng.choice(
        (
            f"Is the {one} {sides[0]} or {sides[1]} the {two}?",
            f"Is the {one} {sides[1]} or {sides[0]} the {two}?",
            f"Where is the {one}, seen from the {two}?",
            f"How do the {one} and the {two} lie?",
        )
    )
    return Item(
        "relation", (paint(rng, scene),), question, f"The {one} is {side} the {two}.", (scene,)
    )


def describe_item(rng: random.Random, size: Size, split: str) -> Item:
    """Everything in the picture, from left to right."""
    count = rng.choice((1, 2, 2, 3))
    pairs = [_subject(rng, split), *(rng.choice(_pairs(split)) for _ in range(count - 1))]
    rng.shuffle(pairs)
    least = 0.14 * size[0]
    while True:
        scene = arrange(rng, size, pairs)
        ordered = sorted(scene.things, key=lambda thing: thing.x)
        if all(b.x - a.x >= least for a, b in pairwise(ordered)):
            break
    names = [_article(f"{thing.color} {thing.shape}") for thing in ordered]
    listed = names[0] if count == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    question = rng.choice(
        ("What is in the picture?", "What do you see?", "Describe the picture from left to right.")
    )
    return Item("describe", (paint(rng, scene),), question, f"I see {listed}.", (scene,))


def _written(rng: random.Random, size: Size, split: str, text: str) -> tuple[Image.Image, str]:
    """A picture of `text`, and the font it is written in."""
    font_id = rng.choice(fonts.font_ids(held_out=split == HELD_OUT))
    paper = palette.background(rng, [])
    ink = canvas.ink_for(rng, paper)
    image = canvas.start(rng, size, [ink]) if rng.random() < 0.3 else Image.new("RGB", size, paper)
    if image.getpixel((0, 0)) != paper:
        corner = image.getpixel((0, 0))
        assert isinstance(corner, tuple)
        ink = canvas.ink_for(rng, (int(corner[0]), int(corner[1]), int(corner[2])))
    canvas.put_text(rng, image, text, font_id, ink)
    return canvas.grain(rng, image), font_id


def digits_item(rng: random.Random, size: Size, split: str) -> Item:
    """A number of one to four digits."""
    length = rng.choice((1, 2, 3, 3, 4, 4))
    number = str(rng.randint(10 ** (length - 1) if length > 1 else 0, 10**length - 1))
    image, font_id = _written(rng, size, split, number)
    question = rng.choice(
        (
            "What number is this?",
            "What number is written here?",
            "Which number do you see?",
            "Read the number.",
        )
    )
    return Item("digits", (image,), question, f"The number is {number}.", (), number, font_id)


def words_item(rng: random.Random, size: Size, split: str) -> Item:
    """A word of the list; in training, as often a made-up one. Answered in lower case."""
    made_up = split == TRAIN and rng.random() < 0.5
    word = words.made_up(rng) if made_up else words.listed(rng)
    written = rng.choice((word, word, word.capitalize(), word.upper()))
    image, font_id = _written(rng, size, split, written)
    question = rng.choice(
        (
            "What word is this?",
            "What word is written here?",
            "What does it say?",
            "Read the word.",
        )
    )
    return Item("words", (image,), question, f"The word is '{word}'.", (), written, font_id)


def compare_item(rng: random.Random, size: Size, split: str) -> Item:
    """Two pictures: the same shape, the same colour, or which one has more shapes."""
    kind = rng.choice(("shape", "color", "count"))
    if kind == "count":
        return _compare_counts(rng, size, split)
    first = _subject(rng, split)
    index = 1 if kind == "shape" else 0
    same = [pair for pair in _pairs(split) if pair[index] == first[index]]
    alike = rng.random() < 0.5
    second = rng.choice(same if alike else [p for p in _pairs(split) if p[index] != first[index]])
    scenes = (arrange(rng, size, [first]), arrange(rng, size, [second]))
    if kind == "shape":
        question = rng.choice(
            ("Do both pictures show the same shape?", "Is it the same shape in both pictures?")
        )
        one, two = _article(first[1]), _article(second[1])
        answer = f"Yes, both show {one}." if alike else f"No, {one} and {two}."
    else:
        question = rng.choice(
            ("Do both shapes have the same color?", "Is the color the same in both pictures?")
        )
        answer = (
            f"Yes, both are {first[0]}."
            if alike
            else f"No, one is {first[0]} and one is {second[0]}."
        )
    return Item("compare", tuple(paint(rng, s) for s in scenes), question, answer, scenes)


def _compare_counts(rng: random.Random, size: Size, split: str) -> Item:
    first = rng.randint(1, 5)
    second = first if rng.random() < 0.25 else rng.randint(1, 5)
    pool = _pairs(split)
    scenes = tuple(
        arrange(rng, size, [rng.choice(pool) for _ in range(count)]) for count in (first, second)
    )
    question = rng.choice(
        ("Which picture has more shapes?", "In which picture are there more shapes?")
    )
    if first == second:
        answer = f"Both have {_NUMERALS[first]}."
    else:
        answer = f"The {'first' if first > second else 'second'} picture has more shapes."
    return Item("compare", tuple(paint(rng, s) for s in scenes), question, answer, scenes)


Drawer = Callable[[random.Random, Size, str], Item]

DRAWERS: dict[str, Drawer] = {
    "color": color_item,
    "shape": shape_item,
    "count": count_item,
    "position": position_item,
    "relation": relation_item,
    "describe": describe_item,
    "digits": digits_item,
    "words": words_item,
    "compare": compare_item,
}
QUESTION_TYPES: tuple[str, ...] = tuple(DRAWERS)

# The sides of pictures, (width, height). Whole multiples of 28 need no resizing.
SIZES: tuple[Size, ...] = (
    (112, 112), (140, 140), (168, 168), (196, 196), (224, 224), (140, 196), (196, 140),
    (168, 224), (224, 168), (112, 168), (168, 112), (252, 168), (168, 252), (112, 224), (224, 112),
)  # fmt: skip


def item_rng(split: str, seed: int, index: int) -> random.Random:
    """The generator of item `index` of a seed: the same on every machine and Python."""
    return random.Random(f"tiny-vl/{split}/{seed}/{index}")


def draw_size(rng: random.Random) -> Size:
    """A picture's size: mostly one of `SIZES`, in three of ten a few pixels off."""
    width, height = rng.choice(SIZES)
    if rng.random() < 0.3:
        return width + rng.randint(-13, 13), height + rng.randint(-13, 13)
    return width, height


def draw_item(
    rng: random.Random,
    split: str = HELD_OUT,
    question_type: str | None = None,
    size: Size | None = None,
) -> Item:
    """Draw one item.

    Args:
        rng: the only source of chance; see `item_rng`.
        split: `train`, or `heldout` for fonts and colour-shape pairs that training never shows.
        question_type: one of `QUESTION_TYPES`; drawn where not given.
        size: the pictures' (width, height) in pixels; drawn where not given.

    Raises:
        ValueError: a split or question type that does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    chosen = question_type or rng.choice(QUESTION_TYPES)
    if chosen not in DRAWERS:
        raise ValueError(f"question type {chosen!r} is none of {', '.join(QUESTION_TYPES)}")
    return DRAWERS[chosen](rng, size or draw_size(rng), split)


__all__ = ["COLORS", "DRAWERS", "HELD_OUT", "QUESTION_TYPES", "SHAPES", "SIZES", "SPLITS", "TRAIN",
           "Item", "draw_item", "draw_size", "item_rng"]  # fmt: skip
