"""Who is right, and what a score means: exact matches, controls, and the table of both.

Two controls show that answers come from what is shown: the same question with a grey picture or
clip of the same size, and with another item's. Both must fall to what a guesser without eyes
reaches, who always gives the commonest training answer to the question (`Guesser`).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from .clips import CLIP_TYPES, draw_clip_item
from .questions import QUESTION_TYPES, TRAIN, Item, draw_item, item_rng

#: Every type of question: about pictures, then about clips.
ALL_TYPES = (*QUESTION_TYPES, *CLIP_TYPES)

# Answers a batch of items, in order.
Answerer = Callable[[Sequence[Item]], list[str]]


def is_right(item: Item, text: str) -> bool:
    """The rule for every type: the whole answer, letter for letter, blanks around it aside."""
    return text.strip() == item.answer


def draw_one(rng: random.Random, split: str, question_type: str) -> Item:
    """An item of any type, about pictures or about a clip."""
    draw = draw_clip_item if question_type in CLIP_TYPES else draw_item
    return draw(rng, split, question_type)


def draw_items(split: str, seed: int, question_type: str, count: int) -> list[Item]:
    """The items that are asked: item `index` of a seed is the same whatever `count` is."""
    return [
        draw_one(item_rng(f"{split}/{question_type}", seed, index), split, question_type)
        for index in range(count)
    ]


def grey(item: Item) -> Item:
    """The same question about evenly grey pictures or frames of the same sizes."""

    def greyed(images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
        return tuple(Image.new("RGB", image.size, (128, 128, 128)) for image in images)

    return replace(item, images=greyed(item.images), clip=greyed(item.clip))


def swapped(items: Sequence[Item]) -> list[Item]:
    """Each question with the pictures or the clip of the next item whose answer differs."""
    result = []
    for index, item in enumerate(items):
        order = [*items[index + 1 :], *items[:index]]
        other = next((one for one in order if one.answer != item.answer), item)
        result.append(replace(item, images=other.images, clip=other.clip))
    return result


class Guesser:
    """Answers without looking: the commonest answer to the same question in training draws."""

    def __init__(self, question_type: str, num_draws: int = 3000, seed: int = 0) -> None:
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for index in range(num_draws):
            item = draw_one(item_rng("guesser", seed, index), TRAIN, question_type)
            answers[item.question][item.answer] += 1
            answers[""][item.answer] += 1
        self._best = {asked: counter.most_common(1)[0][0] for asked, counter in answers.items()}

    def __call__(self, items: Sequence[Item]) -> list[str]:
        """An answer per item; to a question never met, the commonest answer of all."""
        return [self._best.get(item.question, self._best[""]) for item in items]


def accuracy(items: Sequence[Item], texts: Iterable[str]) -> float:
    """The share of right answers."""
    return sum(is_right(i, t) for i, t in zip(items, texts, strict=True)) / max(1, len(items))


@dataclass(frozen=True, slots=True)
class Scores:
    """One row of the table: shares of right answers, and how many items each is over."""

    count: int
    seen: float
    grey: float
    swapped: float
    guessed: float


def measure(
    answer: Answerer,
    split: str,
    seed: int,
    count: int,
    question_types: Sequence[str] = ALL_TYPES,
) -> dict[str, Scores]:
    """Ask `count` items a type, plainly and with both controls."""
    rows = {}
    for question_type in question_types:
        items = draw_items(split, seed, question_type, count)
        rows[question_type] = Scores(
            count,
            accuracy(items, answer(items)),
            accuracy(items, answer([grey(item) for item in items])),
            accuracy(items, answer(swapped(items))),
            accuracy(items, Guesser(question_type)(items)),
        )
    return rows


def table(rows: Mapping[str, Scores]) -> str:
    """The rows as Markdown, in percent."""
    lines = [
        "| question | items | right | grey picture | another's picture | guessed blind |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        shares = (row.seen, row.grey, row.swapped, row.guessed)
        cells = " | ".join(f"{100 * share:.1f}" for share in shares)
        lines.append(f"| {name} | {row.count} | {cells} |")
    return "\n".join(lines)
