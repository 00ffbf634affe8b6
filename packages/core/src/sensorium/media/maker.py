"""``ItemMaker``: the keys of items, what the processor cache holds of them, and how one is made.

    sources with their bytes → digest → key → look up → probe → load → plan → process → store

It knows nothing of requests that wait, of fetching or of limits on counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sensorium.errors import LimitError
from sensorium.media.cache import Processed, ProcessorCache, feature_bytes
from sensorium.media.embeds import Embeds, check_embeds, given_bytes
from sensorium.media.fetch.resolve import bytes_to_come
from sensorium.media.flight import SingleFlight
from sensorium.media.frames import clear_frames
from sensorium.media.keys import derived_key, item_key
from sensorium.media.memory import Claim
from sensorium.media.options import ResolvedOptions
from sensorium.media.process import (
    DecodeBudget,
    check_probe,
    content_digest,
    load,
    probe,
    process,
    resolve_all,
)
from sensorium.outputs import MediaStage
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.kind import MediaKind
from sensorium.stats import MediaRecorder
from sensorium.types import PRECOMPUTED, BytesSource, Loaded, MediaItem, PreparedItem, Source

#: An item, and its derived ones behind it.
Parts = tuple[PreparedItem, ...]


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What the items of one request share.

    Attributes:
        kinds: those that the model takes, by name, as this request has its media read.
        stages: filled from threads while its items are made.
    """

    salt: str
    kinds: Mapping[str, MediaKind]
    options: ResolvedOptions
    budget: DecodeBudget
    stages: list[MediaStage] = field(default_factory=list)

    def saw(self, item: MediaItem, stage: str, seconds: float) -> None:
        """A stage of an item has just ended."""
        ended_s = time.monotonic()
        self.stages.append(MediaStage(item.kind, item.index, stage, ended_s - seconds, ended_s))


class NeedsMemory(Exception):
    """The work needs this many more bytes before it can continue; what was done so far is kept."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.num_bytes = num_bytes


@dataclass(eq=False, slots=True)
class Making:
    """One item on its way; ``run`` may be called again where it stopped for memory.

    Attributes:
        sources: the item's; those that need fetching are replaced by what was fetched before
            ``run`` is called, which took ``fetch_s``.
        key: None until it is known.
    """

    maker: ItemMaker
    item: MediaItem
    request: RequestContext
    claim: Claim
    sources: tuple[Source, ...] = ()
    fetch_s: float = 0.0
    key: bytes | None = None
    was_found: bool = False
    _is_read: bool = False
    _is_probed: bool = False
    _paid: bool = False
    _embeds: Embeds | None = None

    def run(self) -> Parts | None:
        """The work, in a thread of its own.

        Returns:
            The item; None where another thread makes the same one (``key`` says which).

        Raises:
            NeedsMemory: ``pay`` for it and run again.
            MediaError, LimitError, RequestError, PluginError: the item can't be made.
            Dropped: the request gave up before the work began.
        """
        with self.claim.working():
            try:
                return self._run()
            except Exception as error:
                clear_frames(error)
                raise

    def _run(self) -> Parts | None:
        self._read()
        key = self._identify()
        parts, self.was_found = self.maker.flights.run_here(
            self.flight, lambda: self.maker.find(self.item.kind, key, self.request), self._make
        )
        return parts

    async def pay(self, num_bytes: int) -> None:
        """Takes the bytes that ``NeedsMemory`` named.

        Raises:
            MustWait, LimitError, Dropped: as ``Claim.take``.
        """
        try:
            await self.claim.take(num_bytes)
        except LimitError:
            self.drop()
            raise
        self._paid = True

    def drop(self) -> None:
        """Lets go of what was read: the making has failed, and its error will outlive it."""
        self.sources, self._embeds = (), None

    @property
    def flight(self) -> bytes:
        """Equal for equal work; the other kinds' options count too, for derived items."""
        assert self.key is not None
        return self.key + self.request.options.fingerprint

    def find(self) -> Parts | None:
        """What the cache holds under the item's key."""
        assert self.key is not None
        return self.maker.find(self.item.kind, self.key, self.request)

    def _pay(self, num_bytes: int) -> None:
        if not self._paid and not self.claim.try_take(num_bytes):
            raise NeedsMemory(num_bytes)
        self._paid = False

    def _read(self) -> None:
        """Bytes from ``data:`` URLs and files, and from embeddings in base64."""
        if self._is_read:
            return
        kind = self.request.kinds[self.item.kind]
        if self.item.embeds is None:
            self._pay(min(sum(map(bytes_to_come, self.sources)), _most(kind, self.sources)))
            begun_s = time.perf_counter()
            self.sources = resolve_all(kind, self.sources)
            self._record_read(self.fetch_s + time.perf_counter() - begun_s)
        else:
            self._pay(min(given_bytes(self.item.embeds), kind.max_decoded_bytes))
            self._embeds = self.maker.check_embeds(self.item, self.request)
        self._is_read = True

    def _record_read(self, seconds: float) -> None:
        """Counts bytes that were fetched or read; bytes and values that callers gave aren't
        counted."""
        read = [
            source.data
            for given, source in zip(self.item.sources, self.sources, strict=True)
            if source is not given and isinstance(source, BytesSource)
        ]
        if read:
            self.maker.recorder.fetched(self.item.kind, sum(map(len, read)), seconds)
            self.request.saw(self.item, "fetch", seconds)

    def _identify(self) -> bytes:
        if self.key is None:
            if self._embeds is None:
                content = content_digest(self.request.kinds[self.item.kind], self.sources)
            else:
                content = self._embeds.digest()
            self.key = self.maker.key(
                self.item.kind, self.request, embeds=self._embeds is not None, content=content
            )
        return self.key

    def _make(self) -> Parts:
        """Makes the item; the result is in the cache and counted as features."""
        assert self.key is not None
        if self._embeds is not None:
            parts = self.maker.take_embeds(self.item.kind, self.key, self._embeds, self.request)
        else:
            parts = self._decode(self.key)
        for part in parts:
            self.claim.settle(part.features, feature_bytes(part.features))
        return parts

    def _decode(self, key: bytes) -> Parts:
        kind = self.request.kinds[self.item.kind]
        found = probe(kind, self.sources)
        if not self._is_probed:
            check_probe(kind, found, self.request.budget)
            self._is_probed = True
        self._pay(found.decoded_bytes)
        begun_s = time.perf_counter()
        loaded = load(kind, self.sources, found)
        loaded_s = time.perf_counter()
        self.request.saw(self.item, "decode", loaded_s - begun_s)
        parts = self.maker.process(key, loaded, self.item.kind, self.request)
        self.request.saw(self.item, "process", time.perf_counter() - loaded_s)
        self.maker.recorder.decoded(kind.name, loaded_s - begun_s)
        self.maker.recorder.processed(kind.name, time.perf_counter() - loaded_s)
        return parts


def _most(kind: MediaKind, sources: tuple[Source, ...]) -> int:
    return kind.max_fetch_bytes * len(sources)


@dataclass(eq=False, slots=True)
class ItemMaker:
    """One per engine; used from the event loop and from threads.

    Attributes:
        adapters: those of the kinds that the model takes, by name.
        embed_widths: kind → numbers in a row of its embeddings.
        dtype: the engine's, which pre-computed embeddings are brought to.
        recorder: gets the durations.
        flights: items that are being made.
    """

    adapters: Mapping[str, MediaAdapter]
    cache: ProcessorCache
    embed_widths: Mapping[str, int]
    dtype: torch.dtype
    recorder: MediaRecorder
    flights: SingleFlight[Parts] = field(default_factory=SingleFlight)

    def key(
        self,
        kind: str,
        request: RequestContext,
        *,
        embeds: bool,
        uuid: str | None = None,
        content: bytes | None = None,
    ) -> bytes:
        """The key of an item that has a uuid, or this content."""
        adapter = self.adapters[kind]
        return item_key(
            salt=request.salt,
            adapter=adapter,
            io_options=request.kinds[kind].options_key(),
            processor_options=request.options.by_kind[kind],
            embeds=embeds,
            uuid=uuid,
            content=content,
        )

    def find(
        self, kind: str, key: bytes, request: RequestContext, *, plans_only: bool = False
    ) -> Parts | None:
        """The item with its derived ones, if the cache holds all of them (or all their plans)."""
        get = self.cache.get_plan if plans_only else self.cache.get
        found = get(key)
        if found is None:
            return None
        parts = [PreparedItem(kind, 0, key, found.plan, found.features)]
        for derived_kind, name in found.derived:
            part_key = self._derived_key(key, derived_kind, name, request.options)
            part = get(part_key)
            if part is None:
                return None
            parts.append(PreparedItem(derived_kind, 0, part_key, part.plan, part.features, key))
        return tuple(parts)

    def process(self, key: bytes, loaded: Loaded, kind: str, request: RequestContext) -> Parts:
        """A loaded item with its derived ones, stored under its key."""
        own, *derived = process(kind, loaded, self.adapters, request.options.by_kind)
        items = [PreparedItem(kind, 0, key, own.plan, own.features)]
        names = []
        for part in derived:
            assert part.name is not None
            names.append((part.kind, part.name))
            part_key = self._derived_key(key, part.kind, part.name, request.options)
            items.append(PreparedItem(part.kind, 0, part_key, part.plan, part.features, key))
            self.cache.put(part_key, Processed(part.plan, part.features))
        self.cache.put(key, Processed(own.plan, own.features, tuple(names)))
        return tuple(items)

    def check_embeds(self, item: MediaItem, request: RequestContext) -> Embeds:
        """The item's pre-computed embeddings, checked and within the request's bound."""
        assert item.embeds is not None
        embeds = check_embeds(
            item.embeds,
            width=self.embed_widths[item.kind],
            field_names=self.adapters[item.kind].embeds_fields,
            max_bytes=request.kinds[item.kind].max_decoded_bytes,
        )
        request.budget.take(embeds.num_bytes)
        return embeds

    def take_embeds(self, kind: str, key: bytes, embeds: Embeds, request: RequestContext) -> Parts:
        """Embeddings as an item that needs no encoder, stored under its key."""
        adapter, options = self.adapters[kind], request.options.by_kind[kind]
        plan = adapter.plan_embeds(len(embeds.rows), embeds.fields, options)
        features = {PRECOMPUTED: {"rows": embeds.as_dtype(self.dtype)}}
        self.cache.put(key, Processed(plan, features))
        return (PreparedItem(kind, 0, key, plan, features),)

    def _derived_key(self, parent: bytes, kind: str, name: str, options: ResolvedOptions) -> bytes:
        return derived_key(parent, name, self.adapters[kind], options.by_kind[kind])
