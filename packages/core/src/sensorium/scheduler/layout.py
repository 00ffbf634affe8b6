"""``Layout``: where in a prompt each item is needed, and where the prompt may not be cut.

    position   0 … 4 5 6 7 8 9 …            item 0 is needed in [4, 9),
    item 0         ■ ■ ■ □ ■                from its first embedded token to behind its last
    atomic         └───────┘                no chunk may begin or end inside

Made once for each request; it knows nothing of budgets, caches or progress.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from sensorium.scheduler.prefix import merged_ranges, span_mask
from sensorium.types import EngineItem, EngineRequest, MediaSpan


@dataclass(frozen=True, slots=True)
class ItemUse:
    """One item, and the half-open range of positions in which its embedding is needed."""

    index: int
    item: EngineItem
    start: int
    stop: int

    @property
    def key(self) -> bytes:
        """The key of its embedding."""
        return self.item.key

    @property
    def is_irreplaceable(self) -> bool:
        """Whether only the embedding is at hand, so that it can't be made again."""
        return not self.item.features


class Layout:
    """The fixed geometry of one request.

    Attributes:
        uses: the items that are needed anywhere, by where that begins.
        end: behind the last position where any item is needed.
        atomic: ranges that must be computed in one chunk, disjoint and in order.
        kept_bytes: of the embeddings that can't be made again, which the request holds from
            its admission to its end.
        peak_bytes: the most that its other embeddings take at one time, however small its
            chunks are.
    """

    __slots__ = ("atomic", "end", "kept_bytes", "peak_bytes", "uses")

    def __init__(self, request: EngineRequest, *, chunked: bool) -> None:
        self.uses = _item_uses(request)
        self.end = max((use.stop for use in self.uses), default=0)
        self.atomic = merged_ranges(
            (s.offset, s.end) for s in request.spans if s.atomic or s.non_causal
        )
        kept = {use.key: use.item.embed_bytes for use in self.uses if use.is_irreplaceable}
        self.kept_bytes = sum(kept.values())
        others = [use for use in self.uses if use.key not in kept]
        pieces = [self._piece_at(use.start) for use in others]
        if not chunked:
            pieces = [(0, len(request.token_ids))]
        self.peak_bytes = max((_bytes_in(others, *piece) for piece in pieces), default=0)

    def cut_before(self, position: int) -> int:
        """The last place at or before ``position`` where a chunk may end."""
        start, stop = self._piece_at(position)
        return start if start < position < stop else position

    def needed(self, start: int, stop: int) -> list[ItemUse]:
        """The items whose embeddings a chunk [start, stop) needs, by where that begins."""
        return [use for use in self.uses if use.start < stop and use.stop > start]

    def _piece_at(self, position: int) -> tuple[int, int]:
        """The smallest range around a position that can be computed by itself."""
        i = bisect_left(self.atomic, (position + 1,)) - 1
        if i >= 0 and position < self.atomic[i][1]:
            return self.atomic[i]
        return position, position + 1


def _item_uses(request: EngineRequest) -> tuple[ItemUse, ...]:
    ranges: dict[int, tuple[int, int]] = {}
    for span in request.spans:
        embedded = _embedded_range(span)
        if embedded is not None:
            start, stop = ranges.get(span.item, embedded)
            ranges[span.item] = min(start, embedded[0]), max(stop, embedded[1])
    uses = [ItemUse(i, request.items[i], *embedded) for i, embedded in ranges.items()]
    return tuple(sorted(uses, key=lambda use: (use.start, use.index)))


def _embedded_range(span: MediaSpan) -> tuple[int, int] | None:
    """From the first position that an embedding row replaces to behind the last one."""
    mask = span_mask(span)
    if 1 not in mask:
        return None
    return span.offset + mask.index(1), span.offset + mask.rindex(1) + 1


def _bytes_in(uses: Iterable[ItemUse], start: int, stop: int) -> int:
    """What the distinct embeddings needed anywhere in [start, stop) take together."""
    inside = (use for use in uses if use.start < stop and use.stop > start)
    return sum({use.key: use.item.embed_bytes for use in inside}.values())
