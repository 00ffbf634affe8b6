"""``Detokenizer``: the text of tokens as they come, never half a character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sensorium.tokenizer.token_bytes import ByteDetokenizer
from sensorium.tokenizer.tokenizer import Tokenizer
from sensorium.tokenizer.windows import WindowDetokenizer


class Detokenizer(Protocol):
    """One sequence's text."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next tokens and returns the text they complete, maybe ""."""
        ...

    def flush(self) -> str:
        """The text of what is still pending; bytes that make no character become U+FFFD."""
        ...


def make_detokenizer(
    tokenizer: Tokenizer,
    *,
    skip_special_tokens: bool,
    spaces_between_special_tokens: bool = True,
    prompt_token_ids: Sequence[int] = (),
) -> Detokenizer:
    """The detokenizer that fits a tokenizer's decoder.

    Args:
        skip_special_tokens: special tokens have no text.
        spaces_between_special_tokens: False: nothing is put between added tokens that follow one
            another, whatever the tokenizer's decoder puts there.
        prompt_token_ids: what the tokens continue.
    """
    table = tokenizer.token_bytes(skip_special_tokens=skip_special_tokens)
    if table is not None:
        return ByteDetokenizer(table, prompt_token_ids)
    return WindowDetokenizer(
        tokenizer,
        skip_special_tokens=skip_special_tokens,
        spaces_between_special_tokens=spaces_between_special_tokens,
        prompt_token_ids=prompt_token_ids,
    )
