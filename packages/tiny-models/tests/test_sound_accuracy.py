"""What tiny-audio answers, asked through the engine: held-out voices, combinations and timbre."""

from __future__ import annotations

import re
import secrets
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sensorium import LLM, SamplingParams
from sensorium_tiny_models import demo_sounds, sound_card_path, sound_model_path
from sensorium_tiny_models.hearing import (
    HELD_OUT,
    QUESTION_TYPES,
    SPOKEN,
    Item,
    draw_item,
    item_rng,
    silenced,
    swapped,
)

TRAINING = Path(__file__).parents[1] / "training"
TONES = [name for name in QUESTION_TYPES if name not in SPOKEN]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(model=str(sound_model_path()), dtype="float32") as loaded:
        yield loaded
        loaded.check_integrity()


def accuracy(llm: LLM, items: Sequence[Item]) -> float:
    """The share of answers that are right letter for letter."""
    said = demo_sounds.answers(llm, [(item.clips, item.question) for item in items])
    return sum(i.answer == text for i, text in zip(items, said, strict=True)) / len(items)


def test_tones_are_told_apart(llm: LLM) -> None:
    for name in TONES:
        items = [draw_item(item_rng(f"test/{name}", 5, i), HELD_OUT, name) for i in range(12)]
        assert accuracy(llm, items) >= 0.9, name


def test_without_its_own_sound_it_guesses(llm: LLM) -> None:
    items = [draw_item(item_rng("test/other", 6, i), HELD_OUT, "beeps") for i in range(24)]
    assert accuracy(llm, swapped(items)) <= 0.2
    assert accuracy(llm, [silenced(item) for item in items]) <= 0.5


def test_spoken_sounds_of_the_package_are_written_down(llm: LLM) -> None:
    asked = [(item, sounds) for item, sounds in demo_sounds.draw_items(1, 10)
             if item.question_type in SPOKEN]  # fmt: skip
    assert len(asked) == 5
    said = demo_sounds.answers(llm, [(sounds, item.question) for item, sounds in asked])
    assert said == [item.answer for item, _ in asked]


def test_chats_are_answered_like_prompts(llm: LLM) -> None:
    """By its template, from files in base64."""
    item, sounds = next(
        (item, sounds) for item, sounds in demo_sounds.draw_items(1, 10)
        if item.question_type == "which"
    )  # fmt: skip
    parts: list[dict[str, Any]] = [
        {"type": "input_audio", "input_audio": {"data": b64encode(sound).decode(), "format": "ogg"}}
        for sound in sounds
        if isinstance(sound, bytes)
    ]
    parts.append({"type": "text", "text": item.question})
    greedy = SamplingParams(temperature=0, max_tokens=48)
    (output,) = llm.chat([{"role": "user", "content": parts}], greedy, use_tqdm=False)
    assert output.outputs[0].text.strip() == item.answer


def test_the_card_names_every_type_and_is_above_ninety() -> None:
    card = card_table()
    assert set(card) == set(QUESTION_TYPES)
    assert min(right for _, right, _, _, _ in card.values()) >= 90.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", QUESTION_TYPES)
def test_the_cards_table_holds_for_other_items(llm: LLM, name: str) -> None:
    """From a fresh seed: 90 % at least are right, and the controls fall to a guesser's share."""
    sys.path.insert(0, str(TRAINING))
    import measure_sound

    speaker: Any = None
    if name in SPOKEN:
        from speech import Espeak

        try:
            speaker = Espeak()
        except FileNotFoundError as error:
            pytest.skip(str(error))
    seed = secrets.randbelow(10**6)
    items = measure_sound.draw(HELD_OUT, seed, name, 100, speaker)
    guess = measure_sound.accuracy(items, measure_sound.guessed(items, speaker))
    assert accuracy(llm, items) >= 0.9, f"seed {seed}"
    assert accuracy(llm, [silenced(item) for item in items]) <= guess + 0.2, f"seed {seed}"
    assert accuracy(llm, swapped(items)) <= guess + 0.1, f"seed {seed}"


def card_table() -> dict[str, list[float]]:
    """Question type → items, right, silence, another's, blind: the numbers of the card's table."""
    text = sound_card_path().read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \|((?: [\d.]+ \|){4})$", text, re.MULTILINE)
    return {
        name: [float(count), *(float(x) for x in re.findall(r"[\d.]+", rest))]
        for name, count, rest in rows
    }
