"""Turns a source into bytes: ``data:`` URLs and files that a Python caller names by a path.

Fetching over the network isn't built yet; URLs that need it are refused. It doesn't know
what the bytes are, and trusts no media type. Messages never repeat a URL: it may hold
secrets, or megabytes.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

from sensorium.errors import LimitError, MediaError, UnsupportedError
from sensorium.types import BytesSource, Source, UrlSource, ValueSource

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_TOKEN = r"[A-Za-z0-9!#$&^_.+-]+"
# RFC 2397: data:[<type>/<subtype>][;<name>=<value>]*[;base64],<payload>
_DATA_HEAD = re.compile(
    rf"data:(?P<type>{_TOKEN}/{_TOKEN})?(?:;{_TOKEN}=[^;,]*)*(?P<base64>;base64)?", re.IGNORECASE
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_NOT_URL_TEXT = re.compile(r"[^!-~]|%(?![0-9A-Fa-f]{2})")
_NOT_BUILT = ("http", "https", "file")


def resolve(source: Source, *, max_bytes: int) -> BytesSource | ValueSource:
    """Returns the source with its bytes; a decoded value is returned as it is.

    Raises:
        MediaError: a malformed URL, an unknown scheme, a file that can't be read.
        UnsupportedError: a scheme whose fetching isn't built.
        LimitError: more than ``max_bytes``.
    """
    if isinstance(source, UrlSource):
        return _resolve_url(source.url, max_bytes)
    if isinstance(source, ValueSource) and isinstance(source.value, Path):
        return _read_file(source.value, max_bytes)
    return source


def is_url(text: str) -> bool:
    """Whether ``text`` starts with a scheme (of two letters at least: ``C:`` is a drive)."""
    match = _SCHEME.match(text)
    return match is not None and len(match[1]) > 1


def _resolve_url(url: str, max_bytes: int) -> BytesSource:
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match else ""
    if scheme == "data":
        return _decode_data_url(url, max_bytes)
    if scheme in _NOT_BUILT:
        raise UnsupportedError(
            f"fetching {scheme}: URLs isn't built yet; pass the media themselves or a data: URL."
        )
    given = f"the URL's scheme is {scheme[:20]!r}" if scheme else "the URL has no scheme"
    raise MediaError(f"{given}; only data: URLs are allowed.")


def _decode_data_url(url: str, max_bytes: int) -> BytesSource:
    head, comma, payload = url.partition(",")
    match = _DATA_HEAD.fullmatch(head)
    if not comma or match is None:
        raise MediaError(
            "the data: URL is malformed; its form is data:TYPE/SUBTYPE;base64,PAYLOAD."
        )
    if match["base64"]:
        data = decode_base64(payload, max_bytes)
    else:
        data = _decode_percent(payload, max_bytes)
    media_type = match["type"]
    return BytesSource(data, media_type.lower() if media_type else None)


def decode_base64(payload: str, max_bytes: int) -> bytes:
    """Strict base64, with or without the escapes of a URL; its size is checked first.

    Raises:
        MediaError: it is no base64.
        LimitError: more than ``max_bytes``.
    """
    if "%" in payload:  # careful senders escape +, / and =
        payload = _unquote(payload).decode("latin-1")
    _check_size(3 * (len(payload) // 4) - payload[-2:].count("="), max_bytes)
    if len(payload) % 4 or not _BASE64.fullmatch(payload):
        raise MediaError("the payload isn't base64 (letters, digits, + and /, padded with =).")
    return base64.b64decode(payload)


def _decode_percent(payload: str, max_bytes: int) -> bytes:
    _check_size(len(payload) - 2 * payload.count("%"), max_bytes)
    return _unquote(payload)


def _unquote(payload: str) -> bytes:
    if _NOT_URL_TEXT.search(payload):
        raise MediaError(
            "the data: URL's payload holds a character that a URL writes as %XX, or a % without "
            "two hexadecimal digits."
        )
    return unquote_to_bytes(payload)


def _read_file(path: Path, max_bytes: int) -> BytesSource:
    try:
        # Without O_NONBLOCK opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError):
        raise MediaError(f"the file {str(path)!r} can't be opened.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{str(path)!r} is no regular file.")
        _check_size(status.st_size, max_bytes)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)  # it may have grown since
    except OSError:
        raise MediaError(f"the file {str(path)!r} can't be read.") from None
    finally:
        os.close(descriptor)
    _check_size(len(data), max_bytes)
    return BytesSource(data)


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise LimitError(f"its {num_bytes} bytes are more than the {max_bytes} allowed.")
