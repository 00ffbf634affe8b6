"""``Detokenizer``: the text of tokens as they come, never half a character.

A token's text may depend on the one before it (a leading space) and a character may be
spread over several tokens, so a small window is decoded at each step:

    … done │ window start ─── shown │ pending …
           └ decoded to know what is shown already; the rest is new

The cost of a step does not depend on how much came before. Tokens that come together are decoded
together, which gives the same text for a small part of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.tokenizer.tokenizer import Tokenizer

#: What undecodable bytes become; at the end of a text, perhaps the start of a character.
_REPLACEMENT = "\ufffd"
#: A character has at most four bytes, hence tokens; what is still broken after a few more
#: will stay so.
_MAX_PENDING_TOKENS = 8
#: Tokens decoded together where many come at once.
_BLOCK_TOKENS = 64


class Detokenizer:
    """One sequence's text."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._window: list[int] = []
        self._num_shown = 0
        self._shown_text = ""

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next tokens and returns the text they complete, maybe ""."""
        if len(token_ids) == 1:
            return self._push_one(token_ids[0])
        blocks = range(0, len(token_ids), _BLOCK_TOKENS)
        return "".join(self._push_block(token_ids[i : i + _BLOCK_TOKENS]) for i in blocks)

    def flush(self) -> str:
        """The text of what is still pending; bytes that make no character become U+FFFD."""
        if len(self._window) == self._num_shown:
            return ""
        return self._show(self._tokenizer.decode(self._window))

    def _push_block(self, token_ids: Sequence[int]) -> str:
        """Decodes tokens together, unless bytes that make no character are among them.

        Then what is shown depends on how long each was waited for, so they go one by one.
        """
        visible = [token_id for token_id in token_ids if self._is_visible(token_id)]
        if not visible:
            return ""
        text = self._tokenizer.decode([*self._window, *visible])
        if _REPLACEMENT in text:
            return "".join(map(self._push_one, visible))
        self._window += visible
        return self._show(text)

    def _is_visible(self, token_id: int) -> bool:
        # Skipped tokens must not enter the window: alone in it they would make the next
        # word look like the first of a text, which has no leading space. So would ids
        # without a token, which a padded vocabulary has.
        return token_id not in self._skipped and self._tokenizer.id_to_token(token_id) is not None

    def _push_one(self, token_id: int) -> str:
        if not self._is_visible(token_id):
            return ""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        num_pending = len(self._window) - self._num_shown
        if text.endswith(_REPLACEMENT) and num_pending < _MAX_PENDING_TOKENS:
            return ""
        return self._show(text)

    def _show(self, text: str) -> str:
        new = text[len(self._shown_text) :]
        if new:
            # Tokens without text stay in the window: they are no context for the next.
            self._window = self._window[self._num_shown :]
            self._shown_text = self._tokenizer.decode(self._window)
        self._num_shown = len(self._window)
        return new
