"""The work on one item, in one thread: read, probe, load, plan, process.

It knows nothing of requests that wait for it, of keys or of caches.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium.errors import LimitError, MediaError, PluginError
from sensorium.media.fetch import resolve
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.kind import MediaKind
from sensorium.plugins.reader import close_readers
from sensorium.types import Fact, Features, Loaded, MediaPlan, MediaShape, Probe, Source

OptionsByKind = Mapping[str, Mapping[str, Any]]


class DecodeBudget:
    """How many decoded bytes the items of one request may take together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> None:
        """Counts one item.

        Raises:
            LimitError: the sum is above the maximum.
        """
        with self._lock:
            self._num_bytes += num_bytes
            if self._num_bytes > self._max_bytes:
                raise LimitError(
                    f"with it the request's media take {self._num_bytes} bytes once decoded; "
                    f"at most {self._max_bytes} are allowed."
                )


@dataclass(frozen=True, slots=True)
class Part:
    """The result for one item, or for one found inside it (then with a name)."""

    kind: str
    name: str | None
    plan: MediaPlan
    features: Mapping[str, Features]


def resolve_all(kind: MediaKind, sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources with their bytes; sources that have them already are returned as they are."""
    return tuple(resolve(source, max_bytes=kind.max_fetch_bytes) for source in sources)


def content_digest(kind: MediaKind, sources: Sequence[Source]) -> bytes:
    """The kind's digest of fetched sources."""
    return kind.digest(sources)


def probe(kind: MediaKind, sources: Sequence[Source]) -> Probe:
    """What the headers of fetched sources say.

    Raises:
        MediaError, LimitError: as ``MediaKind.probe``.
    """
    return kind.probe(sources)


def check_probe(kind: MediaKind, found: Probe, budget: DecodeBudget) -> None:
    """Counts an item that is about to be decoded.

    Raises:
        LimitError: it is larger than its kind allows, or the request's items are together.
    """
    if found.decoded_bytes > kind.max_decoded_bytes:
        raise LimitError(
            f"it takes {found.decoded_bytes} bytes once decoded; at most "
            f"{kind.max_decoded_bytes} are allowed."
        )
    budget.take(found.decoded_bytes)


def load(kind: MediaKind, sources: Sequence[Source], told: Probe) -> Loaded:
    """Decodes fetched sources.

    Args:
        told: the probe of their headers.

    Raises:
        MediaError: they can't be read, or are not what the headers said.
    """
    loaded = kind.load(sources)
    try:
        _check_told(told.shape, loaded.shape)
    except MediaError:
        close_readers(loaded)
        raise
    return loaded


def _check_told(told: MediaShape, found: MediaShape) -> None:
    """Limits were checked against the header, so decoding must not give another shape."""
    differing = [
        name
        for name, fact in told.facts.items()
        if name in found.facts and not _is_same(fact, found.facts[name])
    ]
    if told.size == found.size and not differing:
        return
    name = differing[0] if differing else "size"
    said, is_ = (told.facts[name], found.facts[name]) if differing else (told.size, found.size)
    raise MediaError(
        f"its header says {name} {said} and decoding gives {is_}: damaged, or a mistake in the "
        "plugin that reads it."
    )


def _is_same(one: Fact, other: Fact) -> bool:
    return one == other or repr(one) == repr(other)  # NaN is the same fact as NaN


def process(
    kind: str, loaded: Loaded, adapters: Mapping[str, MediaAdapter], options: OptionsByKind
) -> list[Part]:
    """Plans and processes a loaded item, then each derived item that the model can take.

    Readers are closed when it ends, however it ends.

    Raises:
        MediaError: a shape that the model's family doesn't take, or an opened item that can't be
            read to its end.
        PluginError: the adapter failed, or returned what its interface doesn't allow.
    """
    try:
        parts = [_process_one(kind, None, loaded, adapters[kind], options[kind])]
        for item in loaded.derived:
            if item.kind not in adapters:
                continue  # this model takes no such items: they aren't part of the answer
            if item.loaded.derived:
                raise PluginError(
                    f"a derived {item.kind} item of a {kind} item has derived items itself; "
                    "only one level is supported."
                )
            adapter, own_options = adapters[item.kind], options[item.kind]
            parts.append(_process_one(item.kind, item.name, item.loaded, adapter, own_options))
        return parts
    finally:
        close_readers(loaded)


def _process_one(
    kind: str,
    name: str | None,
    loaded: Loaded,
    adapter: MediaAdapter,
    options: Mapping[str, Any],
) -> Part:
    plan = adapter.plan(loaded.shape, options)
    return Part(kind, name, plan, adapter.process(loaded, plan, options))
