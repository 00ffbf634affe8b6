"""The clips: the same for a seed, true to their scenes, and true to the split."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from PIL import ImageChops

from sensorium_tiny_models.clips import CLIP_FORMS, CLIP_TYPES, draw_clip_item
from sensorium_tiny_models.palette import HELD_OUT_PAIRS
from sensorium_tiny_models.questions import HELD_OUT, SPLITS, TRAIN, Item, item_rng
from sensorium_tiny_models.scene import Thing

TIMES = {"once": 1, "twice": 2, "three times": 3, "four times": 4}


def drawn(question_type: str, split: str, count: int = 60) -> list[Item]:
    return [draw_clip_item(item_rng("tests", 3, i), split, question_type) for i in range(count)]


def found(text: str, pattern: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, text)
    assert match, text
    return match.groups()


def seen(item: Item, shape: str) -> list[Thing | None]:
    """The one thing of this shape in each frame."""
    states: list[Thing | None] = []
    for scene in item.scenes:
        things = [thing for thing in scene.things if thing.shape == shape]
        assert len(things) <= 1
        states.append(things[0] if things else None)
    return states


@pytest.mark.parametrize("question_type", CLIP_TYPES)
def test_a_seed_draws_the_same_clip_again(question_type: str) -> None:
    one, again = (
        draw_clip_item(item_rng(HELD_OUT, 4, 7), HELD_OUT, question_type) for _ in range(2)
    )
    assert (one.question, one.answer, one.scenes) == (again.question, again.answer, again.scenes)
    assert (len(one.clip), one.clip[0].size) in CLIP_FORMS
    assert len(one.scenes) == len(one.clip)
    for left, right in zip(one.clip, again.clip, strict=True):
        assert ImageChops.difference(left, right).getbbox() is None


@pytest.mark.parametrize("question_type", CLIP_TYPES)
def test_training_never_shows_what_is_held_out(question_type: str) -> None:
    for item in drawn(question_type, TRAIN, 200):
        pairs = {(thing.color, thing.shape) for scene in item.scenes for thing in scene.things}
        assert not pairs & HELD_OUT_PAIRS


@pytest.mark.parametrize("question_type", CLIP_TYPES)
def test_held_out_questions_ask_about_held_out_pairs(question_type: str) -> None:
    for item in drawn(question_type, HELD_OUT):
        (shape,) = re.findall(r"The (?:\w+ )?(\w+) (?:moves|blinks|jumps|changes|comes|is)",
                              item.answer)  # fmt: skip
        pairs = {(state.color, state.shape) for state in seen(item, shape) if state is not None}
        assert pairs & HELD_OUT_PAIRS, item.answer


@pytest.mark.parametrize("question_type", CLIP_TYPES)
def test_frames_show_what_their_scenes_say(question_type: str) -> None:
    """Where two frames differ, something of a scene has changed, and the other way round."""
    for item in drawn(question_type, HELD_OUT, 20):
        grainless = all(
            ImageChops.difference(a, b).getbbox() is None
            for i, a in enumerate(item.clip)
            for j, b in enumerate(item.clip)
            if item.scenes[i] == item.scenes[j]
        )
        if not grainless:
            continue
        for i in range(1, len(item.clip)):
            if item.scenes[i] != item.scenes[i - 1]:
                box = ImageChops.difference(item.clip[i], item.clip[i - 1]).getbbox()
                moved = sum(
                    abs(a.x - b.x) + abs(a.y - b.y)
                    for a, b in zip(item.scenes[i].things, item.scenes[i - 1].things, strict=False)
                )
                assert box is not None or 0 < moved < 1


@pytest.mark.parametrize("split", SPLITS)
class TestTruth:
    def test_moving(self, split: str) -> None:
        for item in drawn("moving", split):
            color, shape = found(item.answer, r"The (\w+) (\w+) moves\.")
            first, last = item.scenes[0].things, item.scenes[-1].things
            moved = [a for a, b in zip(first, last, strict=True) if (a.x, a.y) != (b.x, b.y)]
            assert [(thing.color, thing.shape) for thing in moved] == [(color, shape)]

    def test_direction(self, split: str) -> None:
        for item in drawn("direction", split):
            shape, where = found(item.answer, r"The (\w+) moves (left|right|up|down)\.")
            first, *_, last = seen(item, shape)
            assert first is not None
            assert last is not None
            right, down = last.x - first.x, last.y - first.y
            truth = {"left": -right, "right": right, "up": -down, "down": down}
            assert truth[where] == max(truth.values()) > 0.3 * min(item.scenes[0].size)

    def test_times(self, split: str) -> None:
        for item in drawn("times", split):
            shape, verb, times = found(item.answer, r"The (\w+) (blink|jump)s (.+)\.")
            assert verb in item.question
            states = seen(item, shape)
            rest = states[0]
            assert rest is not None
            assert states[-1] == rest
            events = [i for i, state in enumerate(states) if state != rest]
            assert len(events) == TIMES[times]
            assert all(b - a > 1 for a, b in itertools.pairwise(events))
            for i in events:
                state = states[i]
                assert (state is None) == (verb == "blink")
                assert state is None or rest.y - state.y >= rest.radius

    def test_change(self, split: str) -> None:
        for item in drawn("change", split, 120):
            if " changes from " in item.answer:
                shape, *told = found(item.answer, r"The (\w+) changes from (\w+) to (\w+)\.")
            else:
                shape, color, where = found(item.answer, r"The (\w+) is (\w+) at the (end|start)\.")
                assert item.question == f"What color is the {shape} at the {where}?"
                told = [color]
            colors = [state.color for state in seen(item, shape) if state is not None]
            assert len(colors) == len(item.clip)
            ends = [colors[0], colors[-1]]
            assert colors == sorted(colors, key=ends.index)
            assert ends[0] != ends[1]
            if len(told) == 1:
                ends = [ends["end" in item.answer]]
            assert told == ends

    def test_first(self, split: str) -> None:
        for item in drawn("first", split, 120):
            *color, shape, asked = found(item.answer, r"The (?:(\w+) )?(\w+) comes (first|last)\.")
            assert f"comes {asked}" in item.question
            moments = {
                thing.shape: next(i for i, state in enumerate(seen(item, thing.shape)) if state)
                for thing in item.scenes[-1].things
            }
            best = (min if asked == "first" else max)(moments.values())
            assert [name for name, at in moments.items() if at == best] == [shape]
            (thing,) = [thing for thing in item.scenes[-1].things if thing.shape == shape]
            assert color == [None] or color == [thing.color]


@pytest.mark.parametrize("split", SPLITS)
def test_nothing_overlaps_or_leaves_the_frame(split: str) -> None:
    for question_type in CLIP_TYPES:
        for item in drawn(question_type, split, 20):
            for scene in item.scenes:
                for i, thing in enumerate(scene.things):
                    for at, side in zip((thing.x, thing.y), scene.size, strict=True):
                        assert thing.radius <= at <= side - thing.radius
                    for other in scene.things[i + 1 :]:
                        apart = math.dist((thing.x, thing.y), (other.x, other.y))
                        assert apart >= thing.radius + other.radius


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ValueError, match="split 'test' is none of"):
        draw_clip_item(item_rng("x", 0, 0), "test")
    with pytest.raises(ValueError, match="question type 'smell' is none of"):
        draw_clip_item(item_rng("x", 0, 0), TRAIN, "smell")
