"""Questions about sound: the same for a seed, true to what the clips hold, and to the split."""

from __future__ import annotations

import numpy as np
import pytest

from sensorium_tiny_models.hearing import (
    HELD_OUT,
    MOST_BEEPS,
    QUESTION_TYPES,
    SPLITS,
    SPOKEN,
    TRAIN,
    TWO_CLIPS,
    Item,
    draw_item,
    item_rng,
    silenced,
    swapped,
)
from sensorium_tiny_models.spoken import ADJECTIVES, DIGITS, NOUNS, Utterance, is_held_out
from sensorium_tiny_models.tones import HELD_OUT_TIMBRE, RATE, Rng, Samples, placed, tone

COMPUTED = tuple(name for name in QUESTION_TYPES if name not in SPOKEN)
NUMERALS = ("one", "two", "three", "four", "five", "six")


class Recorder:
    """A ``Speaker`` whose speech is a hum, which keeps what it was asked to say."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def say(self, rng: Rng, text: str, *, held_out: bool) -> Utterance:
        """A quarter of a second."""
        self.asked.append((text, held_out))
        return Utterance(tone("sine", 200.0, 200.0, 0.25), "new" if held_out else "known")


def drawn(question_type: str, split: str, count: int = 40) -> list[Item]:
    speaker = Recorder()
    return [
        draw_item(item_rng("tests", 3, i), split, question_type, speaker=speaker)
        for i in range(count)
    ]


def loud(clip: Samples) -> Samples:
    """Where the clip is louder than a third of its peak, smoothed over 10 ms: 0 and 1."""
    envelope = np.convolve(np.abs(clip), np.ones(160) / 160, mode="same")
    return (envelope > envelope.max() / 3).astype(np.float32)


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips without noise and rooms, so that what they hold can be measured."""
    monkeypatch.setattr("sensorium_tiny_models.hearing.recorded", lambda rng, clip: clip)


def hertz(clip: Samples) -> float:
    """The loudest frequency."""
    spectrum = np.abs(np.fft.rfft(clip * np.hanning(len(clip))))
    return float(spectrum.argmax() * RATE / len(clip))


@pytest.mark.parametrize("question_type", QUESTION_TYPES)
def test_a_seed_draws_the_same_item_again(question_type: str) -> None:
    one, again = (drawn(question_type, HELD_OUT, 3)[2] for _ in range(2))
    assert (one.question, one.answer, one.truth) == (again.question, again.answer, again.truth)
    for left, right in zip(one.clips, again.clips, strict=True):
        assert np.array_equal(left, right)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("question_type", QUESTION_TYPES)
def test_clips_are_sound(question_type: str, split: str) -> None:
    for item in drawn(question_type, split, 12):
        assert len(item.clips) == (2 if question_type in TWO_CLIPS else 1)
        assert len({len(clip) for clip in item.clips}) == 1, "the length must not tell the answer"
        for clip in item.clips:
            assert clip.dtype == np.float32
            assert 0.01 < np.abs(clip).max() <= 1.0


@pytest.mark.usefixtures("dry")
@pytest.mark.parametrize("question_type", COMPUTED)
def test_every_answer_comes_up_and_none_dominates(question_type: str) -> None:
    answers = [item.answer for item in drawn(question_type, TRAIN, 120)]
    share = {answer: answers.count(answer) / len(answers) for answer in set(answers)}
    expected = {"beeps": MOST_BEEPS, "tempo": 3}.get(question_type, 2)
    assert len(share) == expected
    assert max(share.values()) < 1.6 / expected


@pytest.mark.usefixtures("dry")
def test_beeps_are_counted() -> None:
    for item in drawn("beeps", TRAIN):
        steps = np.diff(loud(item.clips[0]), prepend=0.0)
        assert int((steps > 0).sum()) == int(item.truth)
        assert NUMERALS[int(item.truth) - 1] in item.answer


@pytest.mark.usefixtures("dry")
def test_directions_are_heard() -> None:
    for item in drawn("direction", HELD_OUT):
        (inside,) = loud(item.clips[0]).nonzero()
        sound = item.clips[0][inside[0] : inside[-1]]
        third = len(sound) // 3
        rises = hertz(sound[-third:]) > hertz(sound[:third])
        assert item.answer == f"The tone {'rises' if rises else 'falls'}."


@pytest.mark.usefixtures("dry")
def test_tempo_is_heard() -> None:
    for item in drawn("tempo", TRAIN):
        starts = (np.diff(loud(item.clips[0]), prepend=0.0) > 0).nonzero()[0]
        ratio = (starts[-1] - starts[-2]) / (starts[1] - starts[0])
        change = (
            "is steady" if 0.8 < ratio < 1.25 else f"gets {'faster' if ratio < 1 else 'slower'}"
        )
        assert item.answer == f"The beat {change}."


@pytest.mark.parametrize("question_type", ["longer", "higher"])
@pytest.mark.usefixtures("dry")
def test_two_tones_are_compared(question_type: str) -> None:
    measured = {"longer": lambda clip: float(loud(clip).sum()), "higher": hertz}[question_type]
    for item in drawn(question_type, HELD_OUT):
        first, second = map(measured, item.clips)
        more = "first" if first > second else "second"
        assert item.answer == f"The {more} sound is {question_type}."


@pytest.mark.usefixtures("dry")
@pytest.mark.parametrize("split", SPLITS)
def test_what_is_said_is_what_is_asked_of_the_speaker(split: str) -> None:
    for question_type in SPOKEN:
        for index in range(60):
            speaker = Recorder()
            item = draw_item(item_rng("said", 1, index), split, question_type, speaker=speaker)
            words = [
                str(DIGITS.index(word)) if word in DIGITS else word
                for text, _ in speaker.asked
                for word in text.split()
            ]
            assert {held_out for _, held_out in speaker.asked} == {split == HELD_OUT}
            truth = item.truth.split()
            if question_type == "which":
                asked = 0 if "first" in item.question else 1
                first = len(speaker.asked[0][0].split())
                assert truth == (words[first:] if asked else words[:first])
            else:
                assert truth == words
            assert item.answer.rstrip(".").endswith(item.truth)


@pytest.mark.usefixtures("dry")
def test_the_splits_share_no_combination_and_no_timbre() -> None:
    for split in SPLITS:
        for name in ("digits", "words"):
            texts = {item.truth for item in drawn(name, split, 80)}
            assert {is_held_out(text) for text in texts} == {split == HELD_OUT}
        for name in COMPUTED:
            timbres = {item.timbre for item in drawn(name, split)}
            assert (timbres == {HELD_OUT_TIMBRE}) == (split == HELD_OUT)
            assert (HELD_OUT_TIMBRE in timbres) == (split == HELD_OUT)


def test_every_word_is_in_training() -> None:
    """What is held out are combinations: each word has some that training may say."""
    assert all(any(not is_held_out(f"{a} {n}") for n in NOUNS) for a in ADJECTIVES)
    held_out = [f"{a} {n}" for a in ADJECTIVES for n in NOUNS if is_held_out(f"{a} {n}")]
    assert len(ADJECTIVES) * len(NOUNS) / 10 < len(held_out) < len(ADJECTIVES) * len(NOUNS) / 3


def test_controls() -> None:
    items = drawn("beeps", TRAIN, 12)
    quiet = silenced(items[0])
    assert (quiet.question, quiet.answer) == (items[0].question, items[0].answer)
    assert [np.abs(clip).max() for clip in quiet.clips] == [0.0]
    for item, other in zip(items, swapped(items), strict=True):
        assert (other.question, other.answer) == (item.question, item.answer)
        source = next(one for one in items if one.clips is other.clips)
        assert source.answer != item.answer


def test_mistakes_are_told() -> None:
    rng = item_rng("x", 0, 0)
    with pytest.raises(ValueError, match="split 'test' is none of"):
        draw_item(rng, "test", "beeps")
    with pytest.raises(ValueError, match="question type 'smell' is none of"):
        draw_item(rng, TRAIN, "smell")
    with pytest.raises(ValueError, match="questions of type 'digits' need a speaker"):
        draw_item(rng, TRAIN, "digits")
    with pytest.raises(ValueError, match=r"a clip of 9 s: it must last 1\.5 to 4"):
        draw_item(rng, TRAIN, "beeps", 9.0)
    with pytest.raises(ValueError, match="doesn't fit into"):
        placed(rng, np.ones(20, dtype=np.float32), 0.001)
