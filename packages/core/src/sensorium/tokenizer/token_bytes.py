"""``TokenBytes``: the bytes of each token, and text made of them.

Only tokenizers whose decoder is the byte-level one (GPT-2's, which Qwen and Llama 3 took over) have
such a table: a token's bytes are the same wherever it stands, and a text is its tokens' bytes read
as UTF-8. That takes a small part of the time of decoding a window of tokens again and again.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
#: A character that isn't complete yet has at most three bytes.
_MAX_INCOMPLETE_BYTES = 3


class TokenBytes(dict[int, bytes]):
    """Token id → bytes, found when first asked for; b"" of ids that have no text.

    Args:
        find: a token id → the vocabulary's entry; None where there is none.
        hidden: ids without text.
    """

    def __init__(self, find: Callable[[int], str | None], hidden: frozenset[int]) -> None:
        super().__init__()
        self._find = find
        self._hidden = hidden

    def __missing__(self, token_id: int) -> bytes:
        entry = None if token_id in self._hidden else self._find(token_id)
        found = self[token_id] = b"" if entry is None else entry_bytes(entry)
        return found


def entry_bytes(entry: str) -> bytes:
    """The bytes of a byte-level vocabulary's entry ("Ġa" is b" a").

    One with a character that stands for no byte, as many added tokens have, is plain text.
    """
    try:
        return bytes([_BYTES[character] for character in entry])
    except KeyError:
        return entry.encode()


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's table: printable bytes of Latin-1 are themselves, the others go up from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    moved = {chr(256 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved


_BYTES = _bytes_of_characters()


class ByteDetokenizer:
    """One sequence's text. See ``make_detokenizer``.

    Bytes wait until they make a character or can't become one any more.

    Args:
        table: without the tokens that are hidden.
        prompt_token_ids: the completion's text has the character, whole, within which they end.
    """

    def __init__(self, table: TokenBytes, prompt_token_ids: Sequence[int] = ()) -> None:
        self._table = table
        self._waiting = _incomplete(table, prompt_token_ids)
        # The prompt's text ends with U+FFFD then, which isn't said again.
        self._is_prompts = bool(self._waiting)

    def push(self, token_ids: Sequence[int]) -> str:
        """See ``Detokenizer.push``."""
        table = self._table
        if len(token_ids) == 1:
            new = table[token_ids[0]]
        else:
            new = b"".join([table[token_id] for token_id in token_ids])
        data = self._waiting + new
        text, num_used = utf_8_decode(data, "replace", False)
        self._waiting = data[num_used:]
        return self._without_prompts(text) if self._is_prompts else text

    def flush(self) -> str:
        """See ``Detokenizer.flush``."""
        if not self._waiting:
            return ""
        text, _ = utf_8_decode(self._waiting, "replace", True)
        self._waiting = b""
        return self._without_prompts(text) if self._is_prompts else text

    def _without_prompts(self, text: str) -> str:
        if text:
            self._is_prompts = False
        return text.removeprefix(_REPLACEMENT)


def _incomplete(table: TokenBytes, token_ids: Sequence[int]) -> bytes:
    """The bytes at the end of a text that may become a character."""
    tail = b""
    for token_id in reversed(token_ids):
        tail = table[token_id] + tail
        if len(tail) >= _MAX_INCOMPLETE_BYTES:
            break
    tail = tail[-_MAX_INCOMPLETE_BYTES:]
    _, num_used = utf_8_decode(tail, "replace", False)
    return tail[num_used:]
