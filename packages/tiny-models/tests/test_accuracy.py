"""What the model answers, asked through the engine: held-out fonts and colour-shape pairs.

About pictures and about clips.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import pytest

from sensorium import LLM
from sensorium_tiny_models import card_path, model_path
from sensorium_tiny_models.clips import CLIP_TYPES
from sensorium_tiny_models.demo import answers
from sensorium_tiny_models.questions import HELD_OUT, Item
from sensorium_tiny_models.score import (
    ALL_TYPES,
    Answerer,
    accuracy,
    draw_items,
    measure,
    swapped,
)

#: Of the card's table, and of no training run.
CARD_SEED = 4242
#: How far above the blind guesser an answer about something else may be, in points.
GUESSING = 20


@pytest.fixture(scope="module")
def ask() -> Iterator[Answerer]:
    """Answers by ``LLM.chat``."""
    with LLM(model=str(model_path()), dtype="float32") as llm:

        def ask_all(items: Sequence[Item]) -> list[str]:
            return answers(llm, items)

        yield ask_all
        llm.check_integrity()


def found(ask: Answerer, seed: int, types: Sequence[str], count: int) -> dict[str, float]:
    """Accuracy by type; all are asked together, since a step of many answers costs little more."""
    items = {name: draw_items(HELD_OUT, seed, name, count) for name in types}
    said = iter(ask([item for own in items.values() for item in own]))
    return {name: accuracy(own, list(islice(said, len(own)))) for name, own in items.items()}


def test_a_dozen_a_type(ask: Answerer) -> None:
    shares = found(ask, 7, ALL_TYPES, 12)
    assert min(shares.values()) >= 0.8, shares


def test_without_its_own_picture_or_clip_it_guesses(ask: Answerer) -> None:
    types = ("color", "digits", "moving", "first")
    items = [item for name in types for item in draw_items(HELD_OUT, 8, name, 12)]
    assert accuracy(items, ask(swapped(items))) <= 0.25


def test_the_card_names_every_type() -> None:
    assert set(card_table()) == set(ALL_TYPES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_clips_of_a_fresh_seed(ask: Answerer) -> None:
    """Nine in ten of each type: what was asked of the model."""
    shares = found(ask, 90210, CLIP_TYPES, 100)
    assert min(shares.values()) >= 0.9, shares


@pytest.mark.slow
@pytest.mark.timeout(4800)
def test_the_cards_table_is_reproduced(ask: Answerer) -> None:
    """Two points of each figure; without its own picture or clip a question is guessed."""
    for name, (count, right, guessed) in card_table().items():
        assert count >= 100
        scores = measure(ask, HELD_OUT, CARD_SEED, int(count), (name,))[name]
        shares = [100 * scores.seen, 100 * scores.guessed]
        assert shares == pytest.approx([right, guessed], abs=2.0), name
        assert 100 * max(scores.grey, scores.swapped) <= guessed + GUESSING, name


def card_table() -> dict[str, list[float]]:
    """Question type → items, right, guessed blind: the numbers of the card's table."""
    text = card_path().read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    return {name: [float(x) for x in numbers] for name, *numbers in rows if name in ALL_TYPES}
