"""What is spoken: digits, and short phrases of a small vocabulary; and which of it is held out.

Words and digits are all in training; held out are combinations of them. How text becomes sound is a
``Speaker``'s affair, which only training and measuring have.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

from .tones import Rng, Samples

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ADJECTIVES: tuple[str, ...] = tuple(
    "red green yellow little big happy lazy quiet golden silver wooden frozen".split()
)
NOUNS: tuple[str, ...] = tuple(
    """
    dog rabbit tiger monkey elephant apple banana window table garden river mountain summer winter
    music teacher doctor hammer pencil basket
    """.split()
)
MOST_DIGITS = 4
#: One combination in so many is held out.
_HELD_OUT_EVERY = 5


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a speaker said."""

    samples: Samples
    voice: str


class Speaker(Protocol):
    """Turns text into speech."""

    def say(self, rng: Rng, text: str, *, held_out: bool) -> Utterance:
        """The text by one of the voices of training, or by a held-out one."""


def is_held_out(text: str) -> bool:
    """Whether training never has this combination of words or of digits; single ones it has."""
    return " " in text and zlib.crc32(text.encode()) % _HELD_OUT_EVERY == 0


def draw_digits(rng: Rng, most: int, *, held_out: bool) -> str:
    """One to ``most`` digits, blanks between them: "4 2 7"; two at least where held out."""
    while True:
        count = int(rng.integers(2 if held_out else 1, most + 1))
        text = " ".join(str(digit) for digit in rng.integers(0, 10, count))
        if is_held_out(text) == held_out:
            return text


def draw_phrase(rng: Rng, *, held_out: bool) -> str:
    """An adjective and a noun where held out; in training also a noun alone, or any two words.

    Any two words, so that no word says which may follow it.
    """
    while True:
        words = [str(rng.choice(ADJECTIVES)), str(rng.choice(NOUNS))]
        form = 1.0 if held_out else rng.random()
        if form < 0.25:
            del words[0]
        elif form < 0.6:
            words = [str(word) for word in rng.choice(ADJECTIVES + NOUNS, 2)]
        text = " ".join(words)
        if is_held_out(text) == held_out:
            return text


def pronounced(text: str) -> str:
    """The words to say: digits spelt out."""
    return " ".join(DIGITS[int(word)] if word.isdecimal() else word for word in text.split())
