"""Questions about short clips: what moves and where to, how often, what changes, what comes first.

As in ``questions.py``, each drawing function makes a clip in which its question has one true
answer, and says that answer; ``CLIP_DRAWERS`` is the table of them. A clip is its frames, two a
second, and a ``Scene`` for each of them is the truth that the answer is taken from. Who may be in
a clip, and how it looks, is its ``Cast``'s.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from . import canvas, palette, shapes
from .canvas import Size
from .palette import Rgb
from .questions import HELD_OUT, SPLITS, TRAIN, Item
from .scene import ALL_PAIRS, TRAINING_PAIRS, UNSEEN_PAIRS, Pair, Scene, Spot, Thing, spots

#: Frames a second: as many as the model's family samples, and takes frames without a rate to be.
FRAMES_PER_SECOND = 2
#: (number of frames, (width, height)) of clips. Whole multiples of 28 need no resizing.
CLIP_FORMS: tuple[tuple[int, Size], ...] = (
    (4, (168, 168)), (6, (168, 168)), (8, (112, 112)), (8, (140, 140)), (8, (168, 112)),
    (8, (112, 168)), (8, (196, 112)), (10, (112, 112)), (10, (140, 140)),
)  # fmt: skip
#: Share of clips with a little noise in every frame.
_NOISY_SHARE = 0.08
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_TIMES = ("never", "once", "twice", "three times", "four times")

Form = tuple[int, Size]


@dataclass(frozen=True, slots=True)
class Cast:
    """Who may be in a clip, and how it looks.

    Attributes:
        subjects: pairs of colour and shape that are asked about.
        others: pairs that may stand beside them, or that subjects may turn into.
        shade: draws a shade of a named colour.
        turn: draws a rotation, in degrees, that a shape's name allows.
        mask: (shape, radius, degrees) → its mask.
    """

    subjects: tuple[Pair, ...]
    others: tuple[Pair, ...]
    shade: Callable[[random.Random, str], Rgb] = palette.shade
    turn: Callable[[random.Random, str], float] = shapes.turn
    mask: Callable[[str, float, float], Image.Image] = shapes.mask


#: The casts of the splits: held-out clips ask about pairs that training never shows.
CASTS = {TRAIN: Cast(TRAINING_PAIRS, TRAINING_PAIRS), HELD_OUT: Cast(UNSEEN_PAIRS, ALL_PAIRS)}


@dataclass(frozen=True, slots=True)
class Part:
    """One thing through a clip: what it is in each frame, None where it isn't seen."""

    states: tuple[Thing | None, ...]


def moving_item(rng: random.Random, form: Form, cast: Cast) -> Item:
    """Which of several things moves."""
    color, shape = subject = rng.choice(cast.subjects)
    num_frames, size = form
    radius = _radius(rng, size)
    while True:
        ends = [(_within(rng, size[0], radius), _within(rng, size[1], radius)) for _ in range(2)]
        if math.dist(*ends) >= 0.35 * min(size):
            break
    path = _path(rng, num_frames, ends[0], ends[1])
    parts = [_travelling(subject, path, radius)]
    parts += _bystanders(rng, form, cast, subject, rng.choice((1, 1, 2, 3)), parts)
    question = rng.choice(("What moves?", "What is moving?", "Which shape moves?"))
    return _item(rng, "moving", form, cast, parts, question, f"The {color} {shape} moves.")


def direction_item(rng: random.Random, form: Form, cast: Cast) -> Item:
    """Whether a thing moves left, right, up or down."""
    subject = rng.choice(cast.subjects)
    num_frames, size = form
    name = rng.choice(tuple(_DIRECTIONS))
    right, down = _DIRECTIONS[name]
    radius = _radius(rng, size)
    long_side, short_side = size if right else (size[1], size[0])
    room = long_side - 2 * radius - 2
    distance = room * rng.uniform(0.45, 0.98)
    first = radius + 1 + rng.uniform(0, room - distance)
    along = [first, first + distance]
    if right + down < 0:
        along.reverse()
    across = _within(rng, short_side, radius)
    ends = [(at, across) if right else (across, at) for at in along]
    parts = [_travelling(subject, _path(rng, num_frames, ends[0], ends[1]), radius)]
    parts += _bystanders(rng, form, cast, subject, rng.choice((0, 0, 1, 2)), parts)
    shape = subject[1]
    question = rng.choice(
        (f"In which direction does the {shape} move?", f"Where does the {shape} move?",
         f"Which way does the {shape} move?")
    )  # fmt: skip
    return _item(rng, "direction", form, cast, parts, question, f"The {shape} moves {name}.")


def times_item(rng: random.Random, form: Form, cast: Cast) -> Item:
    """How many times a thing blinks or jumps: as often as the frames can show, at most four."""
    subject = rng.choice(cast.subjects)
    num_frames, size = form
    count = rng.randint(1, min(4, (num_frames - 1) // 2))
    moments = _apart(rng, count, num_frames - 2, first=1)
    verb = rng.choice(("blink", "jump"))
    radius = _radius(rng, size)
    height = rng.uniform(1.0, 1.8) * radius if verb == "jump" else 0.0
    x = _within(rng, size[0], radius)
    y = rng.uniform(radius + 1 + height, size[1] - radius - 1)
    rest, event = Thing(*subject, x, y, radius), None
    if verb == "jump":
        event = Thing(*subject, x, y - height, radius)
    parts = [Part(tuple(event if i in moments else rest for i in range(num_frames)))]
    parts += _bystanders(rng, form, cast, subject, rng.choice((0, 0, 1, 2)), parts)
    shape = subject[1]
    question = rng.choice(
        (f"How many times does the {shape} {verb}?", f"How often does the {shape} {verb}?")
    )
    answer = f"The {shape} {verb}s {_TIMES[count]}."
    return _item(rng, "times", form, cast, parts, question, answer)


def change_item(rng: random.Random, form: Form, cast: Cast) -> Item:
    """What changes its colour, from which to which."""
    color, shape = subject = rng.choice(cast.subjects)
    num_frames, size = form
    pairs = (*cast.others, *cast.subjects)
    colors = [color, rng.choice([c for c, s in pairs if s == shape and c != color])]
    rng.shuffle(colors)
    radius = _radius(rng, size)
    x, y = _within(rng, size[0], radius), _within(rng, size[1], radius)
    moment = rng.randint(1, num_frames - 1) if num_frames < 6 else rng.randint(2, num_frames - 2)
    parts = [
        Part(tuple(Thing(colors[i >= moment], shape, x, y, radius) for i in range(num_frames)))
    ]
    parts += _bystanders(rng, form, cast, subject, rng.choice((0, 1, 2)), parts)
    kind = rng.random()
    if kind < 0.6:
        question = rng.choice(
            ("What changes color?", "What changes its color?", "What happens in the clip?")
        )
        answer = f"The {shape} changes from {colors[0]} to {colors[1]}."
    else:
        end = kind < 0.8
        where = "at the end" if end else "at the start"
        question = f"What color is the {shape} {where}?"
        answer = f"The {shape} is {colors[end]} {where}."
    return _item(rng, "change", form, cast, parts, question, answer)


def first_item(rng: random.Random, form: Form, cast: Cast) -> Item:
    """Which thing comes first, or last; each comes at a moment of its own, and stays."""
    color, shape = subject = rng.choice(cast.subjects)
    num_frames, size = form
    count = 2 if num_frames < 6 else rng.choice((2, 2, 3))
    asked = rng.choice(("first", "last"))
    pairs = [subject]
    while len(pairs) < count:
        taken = [s for _, s in pairs]
        pairs.append(rng.choice([pair for pair in cast.others if pair[1] not in taken]))
    moments = _apart(rng, count, num_frames)
    if asked == "last":
        moments.reverse()
    parts = []
    for pair, place, moment in zip(pairs, spots(rng, size, count), moments, strict=True):
        thing = Thing(*pair, *place)
        parts.append(Part(tuple(thing if i >= moment else None for i in range(num_frames))))
    if count == 2 and rng.random() < 0.4:
        one, two = rng.sample([pair[1] for pair in pairs], 2)
        question = f"Which comes {asked}, the {one} or the {two}?"
        answer = f"The {shape} comes {asked}."
    else:
        question = rng.choice((f"What comes {asked}?", f"Which shape comes {asked}?"))
        answer = f"The {color} {shape} comes {asked}."
    rng.shuffle(parts)
    return _item(rng, "first", form, cast, parts, question, answer)


def _radius(rng: random.Random, size: Size) -> float:
    return max(8.0, rng.uniform(0.1, 0.17) * min(size))


def _within(rng: random.Random, side: int, radius: float) -> float:
    return rng.uniform(radius + 1, side - radius - 1)


def _apart(rng: random.Random, count: int, num_frames: int, first: int = 0) -> list[int]:
    """``count`` of the frames from ``first`` on, ascending, of which no two are neighbours."""
    chosen = sorted(rng.sample(range(num_frames - count + 1), count))
    return [first + at + i for i, at in enumerate(chosen)]


def _path(
    rng: random.Random, num_frames: int, start: tuple[float, float], end: tuple[float, float]
) -> list[tuple[float, float]]:
    """A place in each frame: evenly from start to end, after and before a rest now and then."""
    leave = rng.choice((0, 0, rng.randint(0, num_frames // 3)))
    arrive = num_frames - 1 - rng.choice((0, 0, rng.randint(0, num_frames // 3)))
    shares = [min(1.0, max(0.0, (i - leave) / (arrive - leave))) for i in range(num_frames)]
    return [
        (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
        for share in shares
    ]


def _travelling(pair: Pair, path: list[tuple[float, float]], radius: float) -> Part:
    return Part(tuple(Thing(*pair, x, y, radius) for x, y in path))


def _bystanders(
    rng: random.Random, form: Form, cast: Cast, subject: Pair, count: int, parts: list[Part]
) -> list[Part]:
    """Things of other shapes that stay as they are, out of the way of ``parts``."""
    taken: set[Spot] = {
        (thing.x, thing.y, thing.radius)
        for part in parts
        for thing in part.states
        if thing is not None
    }
    fitting = [pair for pair in cast.others if pair[1] != subject[1]]
    return [
        Part((Thing(*rng.choice(fitting), *place),) * form[0])
        for place in spots(rng, form[1], count, tuple(sorted(taken)))
    ]


def _item(
    rng: random.Random,
    question_type: str,
    form: Form,
    cast: Cast,
    parts: list[Part],
    question: str,
    answer: str,
) -> Item:
    num_frames, size = form
    scenes = tuple(
        Scene(size, tuple(state for part in parts if (state := part.states[i]) is not None))
        for i in range(num_frames)
    )
    frames = _paint(rng, form, cast, parts)
    return Item(question_type, (), question, answer, scenes, clip=frames)


def _paint(
    rng: random.Random, form: Form, cast: Cast, parts: list[Part]
) -> tuple[Image.Image, ...]:
    """The frames: one background, one shade for each colour, one mask for each thing."""
    num_frames, size = form
    looks = [next(state for state in part.states if state is not None) for part in parts]
    colors = sorted({state.color for part in parts for state in part.states if state is not None})
    inks = {color: cast.shade(rng, color) for color in colors}
    paper = canvas.start(rng, size, list(inks.values()))
    masks = [cast.mask(thing.shape, thing.radius, cast.turn(rng, thing.shape)) for thing in looks]
    strength = rng.randint(2, 10) if rng.random() < _NOISY_SHARE else 0

    def put(image: Image.Image, thing: Thing | None, mask: Image.Image) -> None:
        if thing is not None:
            corner = round(thing.x - mask.width / 2), round(thing.y - mask.height / 2)
            image.paste(inks[thing.color], corner, mask)

    changing = []
    for part, mask in zip(parts, masks, strict=True):
        if part.states.count(part.states[0]) == num_frames:
            put(paper, part.states[0], mask)
        else:
            changing.append((part, mask))
    frames = [paper.copy() for _ in range(num_frames)]
    for index, frame in enumerate(frames):
        for part, mask in changing:
            put(frame, part.states[index], mask)
    return tuple(canvas.speckled(rng, frame, strength) if strength else frame for frame in frames)


ClipDrawer = Callable[[random.Random, Form, Cast], Item]

CLIP_DRAWERS: dict[str, ClipDrawer] = {
    "moving": moving_item,
    "direction": direction_item,
    "times": times_item,
    "change": change_item,
    "first": first_item,
}
CLIP_TYPES: tuple[str, ...] = tuple(CLIP_DRAWERS)


def draw_clip_item(
    rng: random.Random,
    split: str = HELD_OUT,
    question_type: str | None = None,
    form: Form | None = None,
) -> Item:
    """Draw one item.

    Args:
        rng: the only source of chance; see ``questions.item_rng``.
        split: ``train``, or ``heldout`` for colour-shape pairs that training never shows.
        question_type: one of ``CLIP_TYPES``; drawn where not given.
        form: number of frames, four at least, and their (width, height) in pixels; drawn where
            not given.

    Raises:
        ValueError: a split or question type that does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    chosen = question_type or rng.choice(CLIP_TYPES)
    if chosen not in CLIP_DRAWERS:
        raise ValueError(f"question type {chosen!r} is none of {', '.join(CLIP_TYPES)}")
    return CLIP_DRAWERS[chosen](rng, form or rng.choice(CLIP_FORMS), CASTS[split])
