"""``resolve``: a source's bytes, where getting them needs no waiting.

``data:`` URLs are decoded and files that a Python caller names by a ``Path`` are read, on the
caller's own thread. URLs that need a network or the operator's permission go through ``Fetcher``.
"""

from __future__ import annotations

import re
from pathlib import Path

from sensorium.errors import MediaError
from sensorium.media.fetch.data_url import decode_data_url, max_decoded_bytes
from sensorium.media.fetch.local import file_bytes, read_file
from sensorium.types import BytesSource, Source, UrlSource, ValueSource

_SCHEME = re.compile(r"[\x00-\x20]*([A-Za-z][A-Za-z0-9+.-]*):")


def scheme_of(text: str) -> str:
    """The scheme in lower case; "" where there is none (``C:`` is a drive)."""
    match = _SCHEME.match(text)
    return match[1].lower() if match is not None and len(match[1]) > 1 else ""


def is_url(text: str) -> bool:
    """Whether ``text`` starts with a scheme (of two letters at least: ``C:`` is a drive)."""
    return bool(scheme_of(text))


def resolve(source: Source, *, max_bytes: int) -> BytesSource | ValueSource:
    """Returns the source with its bytes; a decoded value is returned as it is.

    Raises:
        MediaError: a malformed ``data:`` URL, another scheme, a file that can't be read.
        LimitError: more than ``max_bytes``.
    """
    if isinstance(source, UrlSource):
        scheme = scheme_of(source.url)
        if scheme == "data":
            return decode_data_url(source.url, max_bytes)
        given = f"the URL's scheme is {scheme[:20]!r}" if scheme else "the URL has no scheme"
        raise MediaError(f"{given}; only data: URLs can be read without fetching.")
    if isinstance(source, ValueSource) and isinstance(source.value, Path):
        return read_file(source.value, max_bytes)
    return source


def bytes_to_come(source: Source) -> int:
    """What ``resolve`` will allocate at most for the source; 0 for one that has its bytes."""
    if isinstance(source, UrlSource):
        return max_decoded_bytes(source.url)
    if isinstance(source, ValueSource) and isinstance(source.value, Path):
        return file_bytes(source.value)
    return 0
