"""Questions about sound: each draws one or two clips in which it has one true answer.

Every drawing function takes (rng, seconds, split, speaker) and returns an ``Item`` of sounds that
last at most so many seconds; ``DRAWERS`` is the table of them. ``draw_item`` makes clips of the
sounds. Those in ``SPOKEN`` need a speaker; the others are computed by this package alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .spoken import MOST_DIGITS, Speaker, draw_digits, draw_phrase, pronounced
from .tones import HELD_OUT_TIMBRE, RATE, TIMBRES, Rng, Samples, beats, placed, recorded, tone

TRAIN, HELD_OUT = "train", "heldout"
SPLITS = (TRAIN, HELD_OUT)
MIN_SECONDS, MAX_SECONDS = 1.5, 4.0
MOST_BEEPS = 6
_NUMERALS = ("no", "one", "two", "three", "four", "five", "six")
#: Seconds that a digit or a word takes at most, slowly spoken.
_SPOKEN_DIGIT_S = 0.6


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one or two clips, with its answer.

    ``truth`` is what the answer is taken from: a count, a direction, what was said; ``voice`` and
    ``timbre`` are whose sound it is.
    """

    question_type: str
    clips: tuple[Samples, ...]
    question: str
    answer: str
    truth: str
    voice: str = ""
    timbre: str = ""


def beeps_item(rng: Rng, seconds: float, split: str, speaker: Speaker | None) -> Item:
    """How many beeps, one to six."""
    count = int(rng.integers(1, MOST_BEEPS + 1))
    longest = min(0.6, (seconds - 0.1) / count)
    period = rng.uniform(0.18, max(0.19, longest))
    timbre, hertz = _timbre(rng, split), _pitch(rng)
    beep = tone(timbre, hertz, hertz, rng.uniform(0.06, min(0.2, period - 0.09)))
    starts = [index * period * rng.uniform(1.0, 1.02) for index in range(count)]
    numeral = _NUMERALS[count]
    answer = "There is one beep." if count == 1 else f"There are {numeral} beeps."
    question = _one_of(
        rng, "How many beeps are there?", "How many beeps do you hear?", "Count the beeps."
    )
    return Item("beeps", (beats(beep, starts),), question, answer, str(count), timbre=timbre)


def direction_item(rng: Rng, seconds: float, split: str, speaker: Speaker | None) -> Item:
    """Whether a tone rises or falls."""
    rises = bool(rng.random() < 0.5)
    low = _pitch(rng, 900.0)
    high = low * 2 ** rng.uniform(0.4, 1.6)
    timbre = _timbre(rng, split)
    ends = (low, high) if rises else (high, low)
    sound = tone(timbre, *ends, rng.uniform(0.4, seconds - 0.2))
    question = _one_of(
        rng, "Does the tone rise or fall?", "Is the pitch rising or falling?",
        "Which way does the tone go?",
    )  # fmt: skip
    answer = f"The tone {'rises' if rises else 'falls'}."
    return Item("direction", (sound,), question, answer, answer, timbre=timbre)


def tempo_item(rng: Rng, seconds: float, split: str, speaker: Speaker | None) -> Item:
    """Whether a beat gets faster, gets slower or is steady."""
    answer, ratio = (
        ("The beat gets faster.", 1 / rng.uniform(1.25, 1.5)),
        ("The beat gets slower.", rng.uniform(1.25, 1.5)),
        ("The beat is steady.", 1.0),
    )[int(rng.integers(0, 3))]
    count = int(rng.integers(5, 8))
    gaps = ratio ** np.arange(count - 1)
    starts = np.concatenate([[0.0], np.cumsum(gaps)])
    starts *= rng.uniform(0.75, 0.95) * (seconds - 0.1) / starts[-1]
    timbre, hertz = _timbre(rng, split), _pitch(rng)
    sound = tone(timbre, hertz, hertz, 0.05)
    beat = beats(sound, list(starts))
    question = _one_of(
        rng, "Does the beat get faster or slower?", "How does the tempo change?",
        "Is the beat steady?",
    )  # fmt: skip
    return Item("tempo", (beat,), question, answer, answer, timbre=timbre)


def longer_item(rng: Rng, seconds: float, split: str, speaker: Speaker | None) -> Item:
    """Which of two tones is longer; the clips around them are equally long."""
    short = rng.uniform(0.2, 0.45 * seconds)
    lengths = [short, min(seconds - 0.05, short * rng.uniform(1.6, 3.0))]
    return _two_tones(
        rng, seconds, split, "longer", lengths, [_pitch(rng), _pitch(rng)],
        ("Which sound is longer?", "Which of the two sounds lasts longer?"),
    )  # fmt: skip


def higher_item(rng: Rng, seconds: float, split: str, speaker: Speaker | None) -> Item:
    """Which of two tones is higher."""
    low = _pitch(rng, 900.0)
    lengths = [rng.uniform(0.3, seconds - 0.1) for _ in range(2)]
    return _two_tones(
        rng, seconds, split, "higher", lengths, [low, low * 2 ** rng.uniform(0.25, 1.5)],
        ("Which sound is higher?", "Which of the two sounds has the higher pitch?"),
    )  # fmt: skip


def digits_item(rng: Rng, seconds: float, split: str, speaker: Speaker | None) -> Item:
    """The digits that are spoken."""
    most = max(2, min(MOST_DIGITS, int(seconds / _SPOKEN_DIGIT_S)))
    text = draw_digits(rng, most, held_out=split == HELD_OUT)
    said, voice = _spoken(rng, text, seconds, split, speaker)
    question = _one_of(
        rng, "Which digits are spoken?", "Which number is read out?", "Write down the digits."
    )
    answer = f"The digits are {text}." if " " in text else f"The digit is {text}."
    return Item("digits", (said,), question, answer, text, voice=voice)


def words_item(rng: Rng, seconds: float, split: str, speaker: Speaker | None) -> Item:
    """The words that are spoken."""
    text = draw_phrase(rng, held_out=split == HELD_OUT)
    said, voice = _spoken(rng, text, seconds, split, speaker)
    question = _one_of(rng, "What is said?", "Which words are spoken?", "Write down what you hear.")
    return Item("words", (said,), question, f"It says: {text}.", text, voice=voice)


def which_item(rng: Rng, seconds: float, split: str, speaker: Speaker | None) -> Item:
    """What is said in the first or in the second of two clips."""
    held_out = split == HELD_OUT
    texts = [
        draw_phrase(rng, held_out=held_out) if rng.random() < 0.6
        else draw_digits(rng, 2, held_out=held_out)
        for _ in range(2)
    ]  # fmt: skip
    spoken = [_spoken(rng, text, seconds, split, speaker) for text in texts]
    asked = int(rng.integers(0, 2))
    where = ("first", "second")[asked]
    question = _one_of(
        rng, f"What is said in the {where} clip?", f"What does the {where} clip say?"
    )
    answer = f"The {where} clip says: {texts[asked]}."
    clips = tuple(clip for clip, _ in spoken)
    return Item("which", clips, question, answer, texts[asked], voice=spoken[asked][1])


DRAWERS: dict[str, Callable[[Rng, float, str, Speaker | None], Item]] = {
    "beeps": beeps_item,
    "direction": direction_item,
    "tempo": tempo_item,
    "longer": longer_item,
    "higher": higher_item,
    "digits": digits_item,
    "words": words_item,
    "which": which_item,
}
QUESTION_TYPES = tuple(DRAWERS)
TWO_CLIPS = ("longer", "higher", "which")
SPOKEN = ("digits", "words", "which")


def item_rng(name: str, seed: int, index: int) -> Rng:
    """Random numbers of an item: the same for the same arguments, on every machine."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed, index])


def draw_item(
    rng: Rng,
    split: str,
    question_type: str,
    seconds: float | None = None,
    speaker: Speaker | None = None,
    *,
    dry: bool = False,
) -> Item:
    """Draws a question.

    Args:
        seconds: how long each clip is, ``MIN_SECONDS`` to ``MAX_SECONDS``; drawn by default.
        speaker: who says what is spoken; needed for the types in ``SPOKEN``.
        dry: leave the sounds as they are, each as long as it is, without silence, noise and room.

    Raises:
        ValueError: an unknown split or type, a length out of range, or a speaker that is missing.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if question_type not in DRAWERS:
        raise ValueError(f"question type {question_type!r} is none of {', '.join(DRAWERS)}")
    if question_type in SPOKEN and speaker is None:
        raise ValueError(f"questions of type {question_type!r} need a speaker")
    if seconds is None:
        seconds = rng.uniform(MIN_SECONDS, MAX_SECONDS)
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ValueError(f"a clip of {seconds:g} s: it must last {MIN_SECONDS} to {MAX_SECONDS} s")
    item = DRAWERS[question_type](rng, seconds, split, speaker)
    if dry:
        return item
    clips = tuple(recorded(rng, placed(rng, sound, seconds)) for sound in item.clips)
    return replace(item, clips=clips)


def silenced(item: Item) -> Item:
    """The same question about silence of the same lengths."""
    return replace(item, clips=tuple(np.zeros_like(clip) for clip in item.clips))


def swapped(items: Sequence[Item]) -> list[Item]:
    """Each question with the clips of the next item whose answer differs."""
    result = []
    for index, item in enumerate(items):
        order = [*items[index + 1 :], *items[:index]]
        other = next((one for one in order if one.answer != item.answer), item)
        result.append(replace(item, clips=other.clips))
    return result


def _one_of(rng: Rng, *texts: str) -> str:
    return texts[int(rng.integers(0, len(texts)))]


def _timbre(rng: Rng, split: str) -> str:
    if split == HELD_OUT:
        return HELD_OUT_TIMBRE
    return _one_of(rng, *(name for name in TIMBRES if name != HELD_OUT_TIMBRE))


def _pitch(rng: Rng, highest: float = 2500.0) -> float:
    """Hertz, evenly distributed in pitch."""
    return float(180.0 * (highest / 180.0) ** rng.random())


def _two_tones(
    rng: Rng,
    seconds: float,
    split: str,
    question_type: str,
    lengths: list[float],
    pitches: list[float],
    questions: tuple[str, ...],
) -> Item:
    """Two clips of a tone each, of which the second is more of what is asked about, or swapped."""
    timbre, more = _timbre(rng, split), 1
    if rng.random() < 0.5:
        lengths, pitches, more = lengths[::-1], pitches[::-1], 0
    clips = tuple(
        tone(timbre, hertz, hertz, length) for hertz, length in zip(pitches, lengths, strict=True)
    )
    answer = f"The {('first', 'second')[more]} sound is {question_type}."
    return Item(question_type, clips, _one_of(rng, *questions), answer, answer, timbre=timbre)


def _spoken(
    rng: Rng, text: str, seconds: float, split: str, speaker: Speaker | None
) -> tuple[Samples, str]:
    """The text, said in that time, and whose voice it is."""
    assert speaker is not None, "draw_item has seen to it"
    while True:
        said = speaker.say(rng, pronounced(text), held_out=split == HELD_OUT)
        if len(said.samples) <= round(seconds * RATE):
            return said.samples, said.voice
