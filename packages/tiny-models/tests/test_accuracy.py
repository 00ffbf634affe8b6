"""What the model answers, asked through the engine: held-out fonts and colour-shape pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import pytest

from sensorium import LLM
from sensorium_tiny_models import card_path, model_path
from sensorium_tiny_models.demo import answers
from sensorium_tiny_models.questions import HELD_OUT, QUESTION_TYPES, Item
from sensorium_tiny_models.score import Answerer, accuracy, draw_items, measure, swapped

#: Of the card's table, and of no training run.
CARD_SEED = 4242


@pytest.fixture(scope="module")
def ask() -> Iterator[Answerer]:
    """Answers by ``LLM.chat``."""
    with LLM(model=str(model_path()), dtype="float32") as llm:

        def ask_all(items: Sequence[Item]) -> list[str]:
            return answers(llm, items)

        yield ask_all
        llm.check_integrity()


def test_twenty_a_type(ask: Answerer) -> None:
    """Asked together: a step of many answers costs little more than one of few."""
    items = {name: draw_items(HELD_OUT, 7, name, 20) for name in QUESTION_TYPES}
    said = iter(ask([item for own in items.values() for item in own]))
    found = {name: accuracy(own, list(islice(said, len(own)))) for name, own in items.items()}
    assert min(found.values()) >= 0.85, found


def test_without_its_own_picture_it_guesses(ask: Answerer) -> None:
    items = [item for name in ("color", "digits") for item in draw_items(HELD_OUT, 8, name, 20)]
    assert accuracy(items, ask(swapped(items))) <= 0.25


def test_the_card_names_every_type() -> None:
    assert set(card_table()) == set(QUESTION_TYPES)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_cards_table_is_reproduced(ask: Answerer) -> None:
    """Two points of each figure: the right answers and both controls."""
    card = card_table()
    count = int(card["color"][0])
    assert count >= 200
    for name, scores in measure(ask, HELD_OUT, CARD_SEED, count).items():
        found = [scores.count, 100 * scores.seen, 100 * scores.grey, 100 * scores.swapped]
        assert found == pytest.approx(card[name][:4], abs=2.0), name


def card_table() -> dict[str, list[float]]:
    """Question type → items, right, grey, another's, blind: the numbers of the card's table."""
    text = card_path().read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \|((?: [\d.]+ \|){4})$", text, re.MULTILINE)
    return {
        name: [float(count), *(float(x) for x in re.findall(r"[\d.]+", rest))]
        for name, count, rest in rows
        if name in QUESTION_TYPES
    }
