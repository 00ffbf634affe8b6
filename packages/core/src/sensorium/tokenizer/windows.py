"""``WindowDetokenizer``: the text of tokens as they come, with any decoder.

A token's text may depend on the one before it (a leading space) and a character may be
spread over several tokens, so a small window is decoded at each step:

    … done │ window start ─── shown │ pending …
           └ decoded to know what is shown already; the rest is new

The first window holds the end of the prompt, so that the text of a completion is what it adds
to the prompt's. The cost of a step does not depend on how much came before. Tokens that come
together are decoded together, which gives the same text for a small part of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.tokenizer.tokenizer import Tokenizer

#: What undecodable bytes become; at the end of a text, perhaps the start of a character.
_REPLACEMENT = "\ufffd"
#: A character has at most four bytes, hence tokens; what is still broken after a few more
#: will stay so.
_MAX_PENDING_TOKENS = 8
#: A character that isn't complete yet has at most three bytes.
_MAX_INCOMPLETE_TOKENS = 3
#: Tokens decoded together where many come at once.
_BLOCK_TOKENS = 64
#: Above this size the window is cut even where it then begins with bytes that make no character.
_LONGEST_WINDOW = 32
#: Tokens of the prompt in the first window.
_CONTEXT_TOKENS = 8


class WindowDetokenizer:
    """One sequence's text. See ``make_detokenizer``."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
        prompt_token_ids: Sequence[int],
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._bare = frozenset() if spaces_between_special_tokens else tokenizer.added_ids
        self._window = self._context(prompt_token_ids)
        self._num_shown = len(self._window)
        # The text shown; less the last tokens, while these may be a part of the prompt's last
        # character.
        self._shown_texts = self._texts_of_beginnings()
        self._last_id = self._window[-1] if self._window else None

    def push(self, token_ids: Sequence[int]) -> str:
        """See ``Detokenizer.push``."""
        if len(token_ids) == 1:
            return self._push_one(token_ids[0])
        blocks = range(0, len(token_ids), _BLOCK_TOKENS)
        return "".join(self._push_block(token_ids[i : i + _BLOCK_TOKENS]) for i in blocks)

    def flush(self) -> str:
        """See ``Detokenizer.flush``."""
        if len(self._window) == self._num_shown:
            return ""
        return self._show(self._tokenizer.decode(self._window), len(self._window))

    def _context(self, token_ids: Sequence[int]) -> list[int]:
        """The last visible tokens, from a character's start on."""
        visible: list[int] = []
        for token_id in reversed(token_ids):
            if self._is_visible(token_id):
                visible.append(token_id)
                if len(visible) == _CONTEXT_TOKENS:
                    break
        visible.reverse()
        for stop in range(len(visible), len(visible) - _MAX_INCOMPLETE_TOKENS - 1, -1):
            for start in range(min(_MAX_INCOMPLETE_TOKENS + 1, stop)):
                if not self._tokenizer.decode(visible[start:stop]).startswith(_REPLACEMENT):
                    return visible[start:]
        return visible

    def _texts_of_beginnings(self) -> list[str]:
        texts = [self._tokenizer.decode(self._window)]
        if texts[0].endswith(_REPLACEMENT):
            stops = range(len(self._window) - 1, -1, -1)[:_MAX_INCOMPLETE_TOKENS]
            texts += [self._tokenizer.decode(self._window[:stop]) for stop in stops]
        return texts

    def _push_block(self, token_ids: Sequence[int]) -> str:
        """Decodes tokens together, unless bytes that make no character are among them.

        In that case the result depends on how long each token was held back, so they are decoded
        one by one.
        """
        visible = [token_id for token_id in token_ids if self._is_visible(token_id)]
        if not visible:
            return ""
        text = self._tokenizer.decode([*self._window, *visible])
        if (
            _REPLACEMENT in text
            or not text.startswith(self._shown_texts[0])
            or not self._bare.isdisjoint(visible)
        ):
            return "".join(map(self._push_one, visible))
        self._window += visible
        self._last_id = visible[-1]
        return self._show(text, len(self._window))

    def _is_visible(self, token_id: int) -> bool:
        # Skipped tokens must not enter the window: alone in it they would make the next
        # word look like the first of a text, which has no leading space. So would ids
        # without a token, which a padded vocabulary has.
        return token_id not in self._skipped and self._tokenizer.id_to_token(token_id) is not None

    def _push_one(self, token_id: int) -> str:
        if not self._is_visible(token_id):
            return ""
        last_id, self._last_id = self._last_id, token_id
        if token_id in self._bare and last_id in self._bare:
            return self.flush() + (self._tokenizer.id_to_token(token_id) or "")
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        if not text.endswith(_REPLACEMENT):
            return self._show(text, len(self._window))
        num_pending = len(self._window) - self._num_shown
        if num_pending < _MAX_PENDING_TOKENS:
            return ""
        return self._show(*self._without_incomplete(text))

    def _without_incomplete(self, text: str) -> tuple[str, int]:
        """``text``, the window's, and its number of tokens, less an incomplete character's."""
        for size in range(1, _MAX_INCOMPLETE_TOKENS + 1):
            if self._tokenizer.decode(self._window[-size:]) == _REPLACEMENT:
                rest = self._tokenizer.decode(self._window[:-size])
                if rest + _REPLACEMENT == text:
                    return rest, len(self._window) - size
        return text, len(self._window)

    def _show(self, text: str, num_tokens: int) -> str:
        """What ``text``, that of the window's first ``num_tokens``, adds to the text shown."""
        new = self._added_by(text, num_tokens)
        if new:
            # Tokens without text stay in the window, since they are no context for the next token.
            shown = self._tokenizer.decode(self._window[self._num_shown : num_tokens])
            is_context = shown and not shown.startswith(_REPLACEMENT)
            if not is_context and num_tokens < _LONGEST_WINDOW:
                # Nor is a token that ends a character, or a space, which has no text at the start.
                self._shown_texts = [text]
            else:
                self._window = self._window[self._num_shown :]
                num_tokens -= self._num_shown
                self._shown_texts = [shown]
        self._num_shown = num_tokens
        return new

    def _added_by(self, text: str, num_tokens: int) -> str:
        for shown in self._shown_texts:
            if text.startswith(shown):
                return text[len(shown) :]
        # Byte tokens that make no character spoil those before them, which are shown already.
        return self._tokenizer.decode(self._window[self._num_shown : num_tokens])
