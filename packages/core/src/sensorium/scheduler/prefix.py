"""Page keys: the names under which full KV pages are found again.

Two pages may share a key only if their keys and values are equal. Keys and values of a page depend
on all tokens up to its end, their positions, the embedding rows that replace some of them, and
which of them see later tokens. So a key is

    H(key of the page before it ‖ token ids ‖ H(positions, media rows, what non-causal ranges hold))

over the page's own tokens, the first page's parent being H(salt). The inner hash is left out where
it would be empty, so that plain text costs one hash a page; the parts have fixed lengths, so that
different contents never give the same bytes. An item that began on an earlier page counts on every
page that takes rows of it.

A page that lies in a non-causal range also depends on tokens behind its end, so the whole range's
content is in its key. It isn't enough that such a range is only ever taken from the cache as a
whole: its pages may come from different requests, the first ones from a request whose range
continued differently, the last from another.

Knows nothing of pools, or of what is computed when.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from blake3 import blake3

from sensorium.media.digest import Digest
from sensorium.types import EngineRequest, MediaSpan

#: Of the offsets' bytes, the media and the ranges of a page.
_LENGTHS = struct.Struct("<QQQ")
#: A key's length, where in the range its tokens start, how many they are, and its first row.
_MEDIA = struct.Struct("<QQQQ")


def extend_page_keys(
    keys: list[bytes],
    request: EngineRequest,
    token_ids: Sequence[int],
    num_pages: int,
    page_size: int,
) -> None:
    """Appends the keys of pages ``len(keys)`` … ``num_pages - 1``, which must be full.

    Args:
        keys: the keys of the pages so far.
        request: whose pages they are.
        token_ids: its prompt and what was generated since.
        page_size: tokens of one page.
    """
    assert num_pages * page_size <= len(token_ids), "only full pages have keys"
    first = len(keys)
    if first >= num_pages:
        return
    offsets = _offsets_by_page(request, first, num_pages, page_size)
    parent = keys[-1] if keys else root_key(request.salt)
    for page in range(first, num_pages):
        start, stop = page * page_size, (page + 1) * page_size
        parent = _page_key(parent, request, token_ids, start, stop, offsets[page - first])
        keys.append(parent)


def root_key(salt: str) -> bytes:
    """The parent of a sequence's first page: keeps apart what different salts computed."""
    return Digest("page root").add(salt).digest()


def _page_key(
    parent: bytes,
    request: EngineRequest,
    token_ids: Sequence[int],
    start: int,
    stop: int,
    offsets: bytes,
) -> bytes:
    """The page's content, with the later tokens that its own see where a range is bidirectional."""
    whole = parent + array("q", token_ids[start:stop]).tobytes()
    return blake3(whole + _beside_tokens(request, token_ids, start, stop, offsets)).digest()


def _beside_tokens(
    request: EngineRequest, token_ids: Sequence[int], start: int, stop: int, offsets: bytes
) -> bytes:
    """A digest of everything but the page's own token ids; empty where there is nothing else.

    Hashed are, each behind its own length or count, the positions' offsets, what media put here,
    and what ranges hold that reach here.
    """
    media = [*_media_fields(request, start, stop)] if request.spans else []
    ranges = _seen_ranges(request, start, stop) if request.spans else []
    if not offsets and not media and not ranges:
        return b""
    parts = [_LENGTHS.pack(len(offsets), len(media), len(ranges)), offsets, *media]
    for first, last in ranges:
        seen = Digest("seen").add((first - start, last - start))
        seen.add(np.asarray(token_ids[first:last], dtype="<i8"))
        seen.add(_position_offsets(request, first, last))
        for fields in _media_fields(request, first, last):
            seen.add(fields)
        parts.append(seen.digest())
    return blake3(b"".join(parts)).digest()


def _seen_ranges(request: EngineRequest, start: int, stop: int) -> list[tuple[int, int]]:
    """The ranges that reach into the page whose tokens see each other in both directions.

    Ranges that overlap are one: what one token sees, all that see it depend on.
    """
    spans = (span for span in request.spans if span.non_causal)
    merged = merged_ranges((span.offset, span.end) for span in spans)
    return [(first, last) for first, last in merged if first < stop and last > start]


def merged_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Disjoint ranges in order; those that overlap become one, those that only touch don't."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return tuple(merged)


def _overlapping(request: EngineRequest, start: int, stop: int) -> Iterator[MediaSpan]:
    if start < len(request.token_ids):
        yield from (s for s in request.spans if s.offset < stop and s.end > start)


def _offsets_by_page(request: EngineRequest, first: int, last: int, page_size: int) -> list[bytes]:
    """``_position_offsets`` of the pages ``first`` … ``last - 1``; empty where all are zero."""
    offsets = _position_offsets(request, first * page_size, last * page_size)
    if offsets is None:
        return [b""] * (last - first)
    by_page = offsets.reshape(len(offsets), last - first, page_size).swapaxes(0, 1)
    return [page.tobytes() if page.any() else b"" for page in by_page]


def _position_offsets(request: EngineRequest, start: int, stop: int) -> np.ndarray | None:
    """Positions minus token indices, (axes, stop - start); None where all are zero.

    Text before any media has None, so that prompts with and without media share its pages.
    """
    if request.positions is None and not request.position_delta:
        return None
    index = np.arange(start, stop, dtype="<i8")
    axes = 1 if request.positions is None else len(request.positions)
    offsets = np.full((axes, stop - start), request.position_delta, dtype="<i8")
    in_prompt = max(0, min(stop, len(request.token_ids)) - start)
    if in_prompt and request.positions is None:
        offsets[:, :in_prompt] = 0
    elif in_prompt and request.positions is not None:
        given = request.positions[:, start : start + in_prompt]
        offsets[:, :in_prompt] = given - index[:in_prompt]
    return offsets if offsets.any() else None


def _media_fields(request: EngineRequest, start: int, stop: int) -> Iterator[bytes]:
    """What each overlapping span puts into [start, stop), in bytes that say their own lengths.

    The item's key, where in the range it starts, which tokens it replaces, and by which of its
    rows. A span that replaces nothing here leaves no trace.
    """
    for span in _overlapping(request, start, stop):
        first, last = max(start, span.offset), min(stop, span.end)
        mask = span_mask(span)
        here = mask[first - span.offset : last - span.offset]
        if any(here):
            key = request.items[span.item].key
            row = span.item_slice[0] + mask[: first - span.offset].count(1)
            yield _MEDIA.pack(len(key), first - start, len(here), row) + key + here


def span_mask(span: MediaSpan) -> bytes:
    """One byte for each of the span's tokens, 1 where an embedding row replaces it."""
    return bytes([1]) * span.length if span.is_embed is None else span.is_embed
