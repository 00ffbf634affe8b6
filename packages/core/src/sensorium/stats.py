"""``EngineStats``: an engine's counters and measurements, as plain numbers.

    the step loop ─ CoreStats ─┐
                               ├─→ EngineStats          ``await AsyncEngine.stats()``
    the frontend ─ MediaStats ─┘

Counters only grow, from when their process started. Those of ``CoreStats`` begin again with an
engine's process that takes a dead one's place. Times are in seconds.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

#: Upper edges of the buckets of times, in seconds; four a factor of ten.
TIME_EDGES_S = (
    *(0.0001, 0.0002, 0.0003, 0.0006, 0.001, 0.002, 0.003, 0.006, 0.01, 0.02, 0.03, 0.06),
    *(0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 10.0, 20.0, 30.0, 60.0),
)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a value fell between which edges.

    Attributes:
        edges: upper edges, which belong to their buckets, ascending.
        counts: one a bucket and one more, for values above the last edge; not cumulative.
        total: the sum of all values.
    """

    edges: tuple[float, ...] = TIME_EDGES_S
    counts: tuple[int, ...] = (0,) * (len(TIME_EDGES_S) + 1)
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class HistogramRecorder:
    """Takes values; used from one thread, or under its owner's lock.

    Args:
        edges: as those of ``Histogram``.
    """

    def __init__(self, edges: Sequence[float] = TIME_EDGES_S) -> None:
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(self._edges, value)] += 1
        self._total += value

    def snapshot(self) -> Histogram:
        """The counts at this moment."""
        return Histogram(self._edges, tuple(self._counts), self._total)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """A cache's counts since it was made.

    Attributes:
        num_hits, num_misses: look-ups that found something, and that found nothing.
    """

    num_entries: int = 0
    num_bytes: int = 0
    max_bytes: int = 0
    num_hits: int = 0
    num_misses: int = 0


@dataclass(frozen=True, slots=True)
class MediaStats:
    """The work of preparing one kind's items.

    Attributes:
        num_bytes: encoded bytes of items that were fetched or came with the request.
        fetch_s, decode_s, process_s: one value an item, each where it was done at all.
    """

    num_bytes: int = 0
    fetch_s: Histogram = field(default_factory=Histogram)
    decode_s: Histogram = field(default_factory=Histogram)
    process_s: Histogram = field(default_factory=Histogram)


class MediaRecorder:
    """Takes what preparing media took, by kind; used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_bytes: dict[str, int] = {}
        self._times: dict[tuple[str, str], HistogramRecorder] = {}

    def fetched(self, kind: str, num_bytes: int, seconds: float) -> None:
        """An item's encoded bytes are at hand."""
        with self._lock:
            self._num_bytes[kind] = self._num_bytes.get(kind, 0) + num_bytes
            self._add(kind, "fetch", seconds)

    def decoded(self, kind: str, seconds: float) -> None:
        """An item was decoded."""
        with self._lock:
            self._add(kind, "decode", seconds)

    def processed(self, kind: str, seconds: float) -> None:
        """An item was planned and made into features."""
        with self._lock:
            self._add(kind, "process", seconds)

    def snapshot(self) -> dict[str, MediaStats]:
        """By kind, those that had any."""
        with self._lock:
            kinds = {kind for kind, _ in self._times}
            return {
                kind: MediaStats(
                    self._num_bytes.get(kind, 0),
                    *(self._histogram(kind, what) for what in ("fetch", "decode", "process")),
                )
                for kind in sorted(kinds)
            }

    def _add(self, kind: str, what: str, seconds: float) -> None:
        self._times.setdefault((kind, what), HistogramRecorder()).add(seconds)

    def _histogram(self, kind: str, what: str) -> Histogram:
        found = self._times.get((kind, what))
        return Histogram() if found is None else found.snapshot()


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreStats:
    """The step loop's part.

    Attributes:
        num_running, num_waiting: sequences now.
        num_kv_pages, num_used_kv_pages: all pages, and those that running sequences hold.
        kv_page_tokens: tokens of one page.
        encoder_cache_bytes: what embeddings may take.
        encoder_used_bytes, encoder_pinned_bytes: what they take, and what of it is needed by
            unfinished requests.
        num_prompt_tokens: prompts' tokens of sequences that were admitted.
        num_prefix_hits: of those, tokens that the prefix cache held.
        num_generated_tokens: tokens of answers.
        num_preemptions: how often a sequence lost its pages.
        num_encoder_hits, num_encoded_items: items found encoded, and encoded, of sequences that
            have ended.
        num_ended: finish reason → sequences that ended so.
        step_s: from the beginning of one step's planning until its updates are there.
        encode_s: kind → one value an item.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_kv_pages: int = 0
    num_used_kv_pages: int = 0
    kv_page_tokens: int = 0
    encoder_cache_bytes: int = 0
    encoder_used_bytes: int = 0
    encoder_pinned_bytes: int = 0
    num_prompt_tokens: int = 0
    num_prefix_hits: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    num_encoder_hits: int = 0
    num_encoded_items: int = 0
    num_ended: Mapping[str, int] = field(default_factory=dict)
    step_s: Histogram = field(default_factory=Histogram)
    encode_s: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats(CoreStats):
    """What ``AsyncEngine.stats()`` returns.

    Attributes:
        is_healthy: as ``AsyncEngine.is_healthy``; if not, the engine's part is its last snapshot.
        num_restarts: processes that took a dead one's place.
        num_unfinished_requests: being prepared, waiting or running.
        processor_cache: processed media.
        media: kind → what preparing its items took.
    """

    is_healthy: bool = True
    num_restarts: int = 0
    num_unfinished_requests: int = 0
    processor_cache: CacheStats = field(default_factory=CacheStats)
    media: Mapping[str, MediaStats] = field(default_factory=dict)


def engine_stats(
    core: CoreStats,
    *,
    is_healthy: bool,
    num_restarts: int,
    num_unfinished_requests: int,
    processor_cache: CacheStats,
    media: Mapping[str, MediaStats],
) -> EngineStats:
    """Both parts together."""
    return EngineStats(
        **{f.name: getattr(core, f.name) for f in fields(CoreStats)},
        is_healthy=is_healthy,
        num_restarts=num_restarts,
        num_unfinished_requests=num_unfinished_requests,
        processor_cache=processor_cache,
        media=media,
    )
