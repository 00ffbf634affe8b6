"""Strings that may not be written → token sequences that may not be completed."""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.tokenizer import Tokenizer


def bad_word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The token sequences of each word, at the start of a text and behind a space.

    A word that begins inside a longer token is not found: that would need the text, which
    does not exist before the token is chosen.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for spelling in (word, " " + word.lstrip()):
            ids = tuple(tokenizer.encode(spelling, add_special_tokens=False))
            if ids:
                found[ids] = None
    return tuple(found)
