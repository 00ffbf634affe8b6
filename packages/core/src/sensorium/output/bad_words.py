"""Bad words: strings that may not be written → token sequences that may not be completed."""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.tokenizer import Tokenizer


def bad_word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The token sequences of each word: at a text's start, behind a space and behind other text.

    As in vLLM, a space in front of a word is no part of it, and only sequences as the tokenizer
    makes them count: a word that begins inside a longer token, or that is put together from other
    tokens, is written all the same. The first would need the text, which does not exist before the
    token is chosen.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip(" ") or word
        for ids in (
            tokenizer.encode(bare),
            tokenizer.encode(" " + bare),
            tokenizer.encode(bare, continues=True),
        ):
            if ids:
                found[tuple(ids)] = None
    return tuple(found)
