"""The drawings: the same for a seed, true to their scenes, and true to the split."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from PIL import ImageChops

from sensorium_tiny_models.fonts import HELD_OUT_FONTS, font_ids
from sensorium_tiny_models.palette import HELD_OUT_PAIRS
from sensorium_tiny_models.questions import (
    HELD_OUT,
    QUESTION_TYPES,
    SPLITS,
    TRAIN,
    Item,
    draw_item,
    item_rng,
)
from sensorium_tiny_models.scene import Scene

NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def drawn(question_type: str, split: str, count: int = 60) -> list[Item]:
    return [draw_item(item_rng("tests", 3, i), split, question_type) for i in range(count)]


@pytest.mark.parametrize("question_type", QUESTION_TYPES)
def test_a_seed_draws_the_same_item_again(question_type: str) -> None:
    one, again = (draw_item(item_rng(HELD_OUT, 4, 7), HELD_OUT, question_type) for _ in range(2))
    assert (one.question, one.answer, one.scenes) == (again.question, again.answer, again.scenes)
    for left, right in zip(one.images, again.images, strict=True):
        assert ImageChops.difference(left, right).getbbox() is None


def test_seeds_and_splits_differ() -> None:
    questions = {
        tuple(draw_item(item_rng(split, seed, i), split).answer for i in range(8))
        for split in SPLITS
        for seed in range(4)
    }
    assert len(questions) == 8


@pytest.mark.parametrize("question_type", QUESTION_TYPES)
def test_training_never_shows_what_is_held_out(question_type: str) -> None:
    for item in drawn(question_type, TRAIN, 200):
        pairs = {(thing.color, thing.shape) for scene in item.scenes for thing in scene.things}
        assert not pairs & HELD_OUT_PAIRS
        assert item.font_id not in HELD_OUT_FONTS


@pytest.mark.parametrize("question_type", ["color", "shape", "position", "relation"])
def test_held_out_questions_ask_about_held_out_pairs(question_type: str) -> None:
    for item in drawn(question_type, HELD_OUT):
        subject = item.scenes[0].things[0]
        assert (subject.color, subject.shape) in HELD_OUT_PAIRS


@pytest.mark.parametrize("question_type", ["digits", "words"])
def test_held_out_text_is_in_held_out_fonts(question_type: str) -> None:
    assert {item.font_id for item in drawn(question_type, HELD_OUT)} == set(HELD_OUT_FONTS)
    assert set(font_ids(held_out=True)) == set(HELD_OUT_FONTS)


def test_every_color_has_one_held_out_shape() -> None:
    assert set(Counter(color for color, _ in HELD_OUT_PAIRS).values()) == {1}


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_overlaps_or_leaves_the_picture(split: str) -> None:
    for question_type in QUESTION_TYPES:
        for item in drawn(question_type, split, 30):
            for scene in item.scenes:
                check_room(scene)


def check_room(scene: Scene) -> None:
    for i, thing in enumerate(scene.things):
        assert thing.x - thing.radius + 1 >= 0
        assert thing.x + thing.radius - 1 <= scene.size[0]
        assert thing.y - thing.radius + 1 >= 0
        assert thing.y + thing.radius - 1 <= scene.size[1]
        for other in scene.things[i + 1 :]:
            apart = (thing.x - other.x) ** 2 + (thing.y - other.y) ** 2
            assert apart >= (thing.radius + other.radius) ** 2


def found(text: str, pattern: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, text)
    assert match, text
    return match.groups()


@pytest.mark.parametrize("split", SPLITS)
class TestTruth:
    def test_color(self, split: str) -> None:
        for item in drawn("color", split):
            shape, color = found(item.answer, r"The (\w+) is (\w+)\.")
            assert shape in item.question
            assert [t.color for t in item.scenes[0].things if t.shape == shape] == [color]

    def test_shape(self, split: str) -> None:
        for item in drawn("shape", split):
            color, shape = found(item.answer, r"The (?:(\w+) )?shape is an? (\w+)\.")
            things = [t for t in item.scenes[0].things if color is None or t.color == color]
            assert [t.shape for t in things] == [shape]
            assert color is None or color in item.question

    def test_count(self, split: str) -> None:
        for item in drawn("count", split, 120):
            number, noun = found(item.answer, r"There (?:is|are) (\w+) (.+)\.")
            *color, kind = noun.split()
            things = item.scenes[0].things
            if color:
                things = tuple(t for t in things if t.color == color[0])
            elif not kind.startswith("shape"):
                things = tuple(
                    t for t in things if kind in (t.shape, f"{t.shape}s", f"{t.shape}es")
                )
            assert len(things) == NUMBERS[number]

    def test_position(self, split: str) -> None:
        for item in drawn("position", split):
            shape, where = found(item.answer, r"The (\w+) is (?:at|in) the (.+)\.")
            (thing,) = [t for t in item.scenes[0].things if t.shape == shape]
            x, y = (
                at / side for at, side in zip((thing.x, thing.y), item.scenes[0].size, strict=True)
            )
            if where == "center":
                assert abs(x - 0.5) <= 0.06
                assert abs(y - 0.5) <= 0.06
            else:
                assert where == f"{'top' if y < 0.4 else 'bottom'} {'left' if x < 0.4 else 'right'}"
                assert min(abs(x - 0.5), abs(y - 0.5)) > 0.1

    def test_relation(self, split: str) -> None:
        for item in drawn("relation", split):
            one, side, two = found(
                item.answer,
                r"The (\w+) is (to the left of|to the right of|above|below) the (\w+)\.",
            )
            here, there = ({t.shape: t for t in item.scenes[0].things}[name] for name in (one, two))
            right, down = here.x - there.x, here.y - there.y
            truth = {
                "to the left of": -right, "to the right of": right, "above": -down, "below": down,
            }  # fmt: skip
            assert truth[side] > 0
            assert truth[side] == max(truth.values())

    def test_describe(self, split: str) -> None:
        for item in drawn("describe", split):
            things = sorted(item.scenes[0].things, key=lambda thing: thing.x)
            told = re.findall(r"an? (\w+) (\w+)", item.answer)
            assert told == [(t.color, t.shape) for t in things]

    def test_text(self, split: str) -> None:
        for item in drawn("digits", split):
            assert item.answer == f"The number is {item.text}."
            assert re.fullmatch(r"0|[1-9]\d{0,3}", item.text)
        for item in drawn("words", split):
            assert item.answer == f"The word is '{item.text.lower()}'."

    def test_compare(self, split: str) -> None:
        for item in drawn("compare", split, 120):
            first, second = (scene.things for scene in item.scenes)
            if "more shapes" in item.question:
                counts = len(first), len(second)
                if counts[0] == counts[1]:
                    (number,) = found(item.answer, r"Both have (\w+)\.")
                    assert NUMBERS[number] == counts[0]
                else:
                    more = "first" if counts[0] > counts[1] else "second"
                    assert item.answer == f"The {more} picture has more shapes."
            else:
                by_color = "color" in item.question
                one, two = (t[0].color if by_color else t[0].shape for t in (first, second))
                assert item.answer.startswith("Yes" if one == two else "No")
                assert one in item.answer
                assert two in item.answer


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ValueError, match="split 'test' is none of"):
        draw_item(item_rng("x", 0, 0), "test")
    with pytest.raises(ValueError, match="question type 'smell' is none of"):
        draw_item(item_rng("x", 0, 0), TRAIN, "smell")
