"""``data:`` URLs and base64, read as browsers read them.

Sources: WHATWG Fetch, "data: URL processor"; WHATWG Infra, "forgiving-base64 decode". ASCII white
space counts for nothing and padding may be left out; any other character outside the alphabet is an
error. The URL-safe alphabet (``-`` and ``_``) is another encoding and is refused.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from sensorium.errors import LimitError, MediaError
from sensorium.types import BytesSource

_WHITE_SPACE = b"\t\n\x0c\r "
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}")
_BASE64_MARK = re.compile(r"; *base64 *$", re.IGNORECASE)
#: Characters that are decoded at once; a multiple of 4.
_PIECE = 2**18
_REMOVED_FROM_URLS = {ord("\t"): None, ord("\n"): None, ord("\r"): None}


def decode_data_url(url: str, max_bytes: int) -> BytesSource:
    """The URL's bytes, and the media type that it claims.

    Raises:
        MediaError: there is no comma, or the payload isn't base64 though it says so.
        LimitError: more than ``max_bytes``.
    """
    head, comma, payload = url.partition(",")
    if not comma:
        raise MediaError("the data: URL has no comma; its form is data:TYPE/SUBTYPE;base64,DATA.")
    # A fragment is no part of the resource, and may stand in the head as well.
    if "#" in head:
        raise MediaError("the data: URL has no comma before its fragment (#).")
    payload = payload.partition("#")[0]
    head = head.translate(_REMOVED_FROM_URLS).lstrip().partition(":")[2]
    mark = _BASE64_MARK.search(head)
    if mark is not None:
        data = decode_base64(payload, max_bytes)
    else:
        payload = payload.translate(_REMOVED_FROM_URLS).rstrip("".join(map(chr, range(33))))
        _check_size(len(payload) - 2 * payload.count("%"), max_bytes)
        data = unquote_to_bytes(payload)
        _check_size(len(data), max_bytes)
    claimed = (head[: mark.start()] if mark is not None else head).partition(";")[0].strip()
    return BytesSource(data, claimed.lower() if _MEDIA_TYPE.fullmatch(claimed) else None)


def decode_base64(payload: str, max_bytes: int) -> bytes:
    """Base64 by the forgiving decode, with or without the escapes of a URL.

    Raises:
        MediaError: it is no base64.
        LimitError: more than ``max_bytes``, found before anything is decoded.
    """
    if 3 * len(payload) // 4 <= max_bytes and (plain := _decode_plain(payload)) is not None:
        return plain
    if "%" not in payload:  # before anything is copied; padding is at most two characters
        num_characters = len(payload) - sum(map(payload.count, _WHITE_SPACE.decode()))
        _check_size(3 * (num_characters - 2) // 4, max_bytes)
    data = unquote_to_bytes(payload) if "%" in payload else payload.encode("utf-8", "replace")
    data = data.translate(None, _WHITE_SPACE)
    if len(data) % 4 == 0:
        data = data.removesuffix(b"=").removesuffix(b"=")
    if len(data) % 4 == 1 or data.translate(None, _ALPHABET):
        raise MediaError(
            "the payload isn't base64 (letters, digits, + and /; white space and missing padding "
            "are allowed)."
        )
    _check_size(3 * len(data) // 4, max_bytes)
    return binascii.a2b_base64(data + b"=" * (-len(data) % 4))


def _decode_plain(payload: str) -> bytes | None:
    """Base64 with all of its padding and nothing else in it, as most often; None: it isn't that.

    It is read once, where the forgiving decode goes over it nine times, and piece by piece: the
    interpreter's lock is held for a piece, and other threads wait no longer.
    """
    if len(payload) % 4:
        return None
    pieces = []
    try:
        for start in range(0, len(payload), _PIECE):
            given = payload[start : start + _PIECE]
            pieces.append(binascii.a2b_base64(given, strict_mode=True))
    except ValueError:
        return None
    # Padding of two at most may end the last piece, and no other.
    if any(len(piece) != 3 * _PIECE // 4 for piece in pieces[:-1]):
        return None
    data = b"".join(pieces)
    return data if len(data) == 3 * len(payload) // 4 - payload[-2:].count("=") else None


def max_decoded_bytes(url: str) -> int:
    """What decoding the URL can give at most; white space and escapes only make it less."""
    comma = url.find(",")
    num_characters = len(url) - comma - 1
    if _BASE64_MARK.search(url[:comma].partition(":")[2]):
        return 3 * num_characters // 4
    return num_characters if url.isascii() else 4 * num_characters


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise LimitError(f"its {num_bytes} bytes are more than the {max_bytes} allowed.")
