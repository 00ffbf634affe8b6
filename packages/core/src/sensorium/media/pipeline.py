"""``MediaPipeline``: media as callers gave them → items that an engine takes.

    limits → key by uuid → look up          hit: nothing is fetched or decoded
           → fetch                          bytes are taken from the budget as they come
           → digest → key → look up         hit: nothing is decoded
           → probe → take memory → load → plan → process → store
    embeddings: check → digest → key → look up → plan → store

There is one path: ``_find_or_make``. Fetching runs on a loop of its own (``fetch/``); the rest of
the work on one item runs in one thread in one go (``maker.py``), unless it has to wait for memory.
The caller's event loop only waits, looks up and hashes options. It knows no kind and no model: it
asks ``MediaKind`` and ``MediaAdapter``.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from sensorium.errors import (
    CacheMissError,
    ConfigError,
    FetchError,
    LimitError,
    MediaError,
    PluginError,
    RequestError,
    UnsupportedError,
    cache_miss,
)
from sensorium.media.cache import CacheStats, ProcessorCache, feature_bytes
from sensorium.media.fetch.fetcher import Fetcher, FetchLimits
from sensorium.media.fetch.policy import FetchPolicy
from sensorium.media.flight import run_in
from sensorium.media.keys import planned_key
from sensorium.media.maker import ItemMaker, Making, NeedsMemory, Parts, RequestContext
from sensorium.media.memory import Claim, Lease, MemoryBudget, default_budget_bytes
from sensorium.media.options import ProcessorOptions, ReadingOptions, RemakeKind
from sensorium.media.process import DecodeBudget
from sensorium.media.threads import lone_workers
from sensorium.media.uuids import attach_uuids
from sensorium.outputs import MediaStage
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.kind import MediaKind
from sensorium.stats import MediaRecorder
from sensorium.types import MediaItem, PreparedItem, UrlSource

#: what all media of one request may take once decoded, unless the pipeline is told otherwise
MAX_REQUEST_DECODED_BYTES = 8 * 2**30
THREADS_VARIABLE = "SENSORIUM_MEDIA_LOADING_THREAD_COUNT"


@dataclass(frozen=True, slots=True)
class PreparedMedia:
    """A request's items, in the order in which they were given.

    Attributes:
        items: derived items directly behind their parents.
        num_hits: items for which no work of this request's own was needed: found in the
            processor cache, or made at the same time for another. Items of which only the
            plan was found don't count.
        stages: what was done for them here.
        lease: the memory that the items hold, to be released when the request has ended; None
            without items.
    """

    items: tuple[PreparedItem, ...] = ()
    num_hits: int = 0
    stages: tuple[MediaStage, ...] = ()
    lease: Lease | None = None

    def release(self) -> None:
        """The request has ended; calling it again does nothing."""
        if self.lease is not None:
            self.lease.release()


#: An item with its derived ones, and whether they were found without work for this request.
_Found = tuple[Parts, bool]


def _no_such_kind(name: str) -> object:
    raise PluginError(
        f"No installed plugin serves media of the kind {name!r}; `sensorium plugins` lists what is "
        "installed."
    )


class MediaPipeline:
    """One per engine; owns the threads and the processor cache.

    Args:
        kinds: those that the model takes.
        adapters: kind → the model family's adapter.
        limits: kind → items in one prompt at most, None for as many as fit; a kind that isn't
            named has its own default.
        processor_kwargs: the engine's ``mm_processor_kwargs``.
        cache_bytes: bound of the processor cache; 0 turns it off.
        num_threads: None: ``SENSORIUM_MEDIA_LOADING_THREAD_COUNT``, or by cores.
        uuids_ignored: items are told apart by content alone.
        architecture: the model's name in messages.
        find_kind: called with a kind that the model doesn't take; raises ``PluginError`` with
            the reason if no plugin serves it at all.
        max_request_bytes: what a request's media may take once decoded.
        embed_widths: kind → numbers in a row of its embeddings; kinds that aren't named take
            no pre-computed ones.
        dtype: the engine's, which pre-computed embeddings are brought to.
        fetch_policy: what URLs may be fetched; None: any public host's, and no local file's.
        memory: the engine's budget; None: one of the default size.
        remake_kind: makes a kind read as a request's ``media_io_kwargs`` say, laid over the
            engine's; None: requests may bring none.

    Raises:
        ConfigError: ``processor_kwargs`` that the adapters refuse.
    """

    def __init__(
        self,
        kinds: Mapping[str, MediaKind],
        adapters: Mapping[str, MediaAdapter],
        *,
        limits: Mapping[str, int | None],
        processor_kwargs: Mapping[str, Any],
        cache_bytes: int,
        num_threads: int | None,
        uuids_ignored: bool,
        architecture: str = "This model",
        find_kind: Callable[[str], object] = _no_such_kind,
        max_request_bytes: int = MAX_REQUEST_DECODED_BYTES,
        embed_widths: Mapping[str, int] | None = None,
        dtype: torch.dtype = torch.float32,
        fetch_policy: FetchPolicy | None = None,
        memory: MemoryBudget | None = None,
        remake_kind: RemakeKind | None = None,
    ) -> None:
        self._kinds = {name: kind for name, kind in kinds.items() if name in adapters}
        self._adapters = dict(adapters)
        self._limits = {
            name: limits.get(name, kind.default_limit) for name, kind in self._kinds.items()
        }
        self._reading = ReadingOptions(self._kinds, remake_kind)
        self._options = ProcessorOptions(self._adapters, processor_kwargs)
        self._uuids_ignored = uuids_ignored
        self._architecture = architecture
        self._find_kind = find_kind
        self._max_request_bytes = max_request_bytes
        self._embed_widths = dict(embed_widths or {})
        self._cache = ProcessorCache(cache_bytes)
        self.recorder = MediaRecorder()
        self._executor = lone_workers(_num_threads(num_threads), "sensorium-media")
        self._maker = ItemMaker(
            self._adapters, self._cache, self._embed_widths, dtype, self.recorder
        )
        self.memory = memory or MemoryBudget(default_budget_bytes())
        policy = fetch_policy or FetchPolicy()
        self._fetcher = Fetcher(policy)
        self._fetch_limits = {
            name: FetchLimits(
                kind.max_fetch_bytes, policy.timeouts_s.get(name, kind.fetch_timeout_s)
            )
            for name, kind in self._kinds.items()
        }

    @property
    def stats(self) -> CacheStats:
        """The processor cache's counts."""
        return self._cache.stats

    def split(
        self, data: Mapping[str, Any], uuids: Mapping[str, Any] | None = None
    ) -> list[MediaItem]:
        """``multi_modal_data`` → items with their uuids, nothing read yet.

        Raises:
            PluginError: a kind that no plugin serves.
            RequestError: a kind that the model doesn't take, or uuids that don't fit.
            LimitError: too many items.
            MediaError: a value in a form that its kind doesn't take.
        """
        groups: dict[str, list[MediaItem]] = {}
        for name, value in data.items():
            kind = self._kind(name)
            groups[name] = kind.split(value)
            self._check_limits(groups[name])
        if uuids is None or self._uuids_ignored:
            return [item for group in groups.values() for item in group]
        return attach_uuids(groups, uuids)

    async def prepare(
        self,
        items: Sequence[MediaItem],
        *,
        salt: str = "",
        processor_kwargs: Mapping[str, Any] | None = None,
        io_kwargs: Mapping[str, Any] | None = None,
    ) -> PreparedMedia:
        """Makes each item ready, or finds it ready.

        Args:
            processor_kwargs, io_kwargs: the request's own, laid over the engine's
                ``mm_processor_kwargs`` and ``media_io_kwargs``.

        Cancelling the call leaves other requests for the same items undisturbed.

        Raises:
            LimitError: too many items, or items that are too large.
            MediaError: an item that can't be read; the message names it.
            CacheMissError: an item given by uuid alone that no cache holds.
            RequestError: options or items that the model doesn't take.
            PluginError: a plugin's mistake.
            EngineClosedError: ``close`` was called.
        """
        self._check_limits(items)
        for item in items:
            self._check_item(item)
        options = self._options.resolve(processor_kwargs or {})
        kinds = self._reading.resolve(io_kwargs or {})
        if not items:
            return PreparedMedia()
        lease = self.memory.lease()
        stages: list[MediaStage] = []

        async def attempt() -> list[_Found]:
            request = RequestContext(
                salt, kinds, options, DecodeBudget(self._max_request_bytes), stages
            )
            if lease.alone or len(items) == 1:
                return [await self._prepare_item(item, request, lease) for item in items]
            return await _all(self._prepare_item(item, request, lease) for item in items)

        results = await lease.attempt(attempt)
        return PreparedMedia(
            items=tuple(part for parts, _ in results for part in parts),
            num_hits=sum(len(parts) for parts, was_there in results if was_there),
            stages=tuple(stages),
            lease=lease,
        )

    def reset(self) -> None:
        """Empties the processor cache."""
        self._cache.clear()

    def close(self) -> None:
        """Ends the threads; work that hasn't begun fails with ``EngineClosedError``."""
        self.memory.close()
        self._fetcher.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._cache.clear()

    # --- checks that need no media -----------------------------------------------------

    def _kind(self, name: str) -> MediaKind:
        if name not in self._kinds:
            self._find_kind(name)
            taken = ", ".join(sorted(self._kinds)) or "text alone"
            raise RequestError(f"{self._architecture} takes no {name} items; it takes {taken}.")
        return self._kinds[name]

    def _check_limits(self, items: Iterable[MediaItem]) -> None:
        for name, count in Counter(item.kind for item in items).items():
            self._kind(name)
            limit = self._limits[name]
            if limit is not None and count > limit:
                raise LimitError(
                    f"The prompt has {count} {name} items; limit_mm_per_prompt allows {limit}."
                )

    def _check_item(self, item: MediaItem) -> None:
        if item.embeds is not None and item.kind not in self._embed_widths:
            raise RequestError(
                f"{item.label}: {self._architecture} takes no pre-computed {item.kind} embeddings."
            )
        if item.has_data or (item.uuid is not None and not self._uuids_ignored):
            return
        if not self._uuids_ignored:
            raise RequestError(f"{item.label}: neither data nor a uuid were given; one must be.")
        raise RequestError(
            f"{item.label}: no data were given, and uuids are ignored because the processor cache "
            "and prefix caching are both off."
        )

    # --- one item ----------------------------------------------------------------------

    async def _prepare_item(self, item: MediaItem, request: RequestContext, lease: Lease) -> _Found:
        uuid = None if self._uuids_ignored else item.uuid
        try:
            parts, was_there = await self._find_or_make(item, uuid, request, lease)
        except CacheMissError:
            raise
        except LimitError as error:
            refused = _labelled(item.label, error)
        except RequestError as error:
            raise _labelled(item.label, error) from error
        else:
            return _named(parts, item.index, uuid), was_there
        # Outside of the handler, whose error refers to frames that hold what was made.
        raise refused

    async def _find_or_make(
        self, item: MediaItem, uuid: str | None, request: RequestContext, lease: Lease
    ) -> _Found:
        claim = lease.claim()
        if uuid is not None:
            found = await self._find_by_uuid(item, uuid, request)
            if found is not None:
                await _hold(found, claim)
                return found, True
            if not item.has_data:
                return self._find_plan(item, uuid, request), False
        while True:
            making = Making(self._maker, item, request, claim)
            await self._fetch(making)
            if uuid is not None:
                embeds = item.embeds is not None
                making.key = self._maker.key(item.kind, request, embeds=embeds, uuid=uuid)
            parts = await self._run(making)
            claim.give_back()
            if parts is None:  # another request is making the same item
                parts = await self._maker.flights.join(making.flight, making.find)
                making.was_found = True
            if parts is not None:
                await _hold(parts, claim)
                return parts, making.was_found

    async def _fetch(self, making: Making) -> None:
        """Gets the bytes of those sources that have to be waited for."""
        limits = self._fetch_limits[making.item.kind]
        salt, claim = making.request.salt, making.claim
        begun_s = time.perf_counter()
        making.sources = tuple(
            [
                await self._fetcher.fetch(source, limits, salt=salt, claim=claim)
                if isinstance(source, UrlSource) and self._fetcher.must_fetch(source)
                else source
                for source in making.item.sources
            ]
        )
        making.fetch_s = time.perf_counter() - begun_s

    async def _run(self, making: Making) -> Parts | None:
        """The work in a media thread; between two parts of it, the request may wait for memory."""
        while True:
            try:
                return await run_in(self._executor, making.run)
            except NeedsMemory as need:
                num_bytes = need.num_bytes
            except Exception:
                making.drop()
                raise
            await making.pay(num_bytes)

    async def _find_by_uuid(
        self, item: MediaItem, uuid: str, request: RequestContext
    ) -> Parts | None:
        """What is cached under a uuid, or is just being made."""
        for key in self._named_keys(item, uuid, request):
            find = partial(self._maker.find, item.kind, key, request)
            found = await self._maker.flights.join(key + request.options.fingerprint, find)
            if found is not None:
                return found
        return None

    def _find_plan(self, item: MediaItem, uuid: str, request: RequestContext) -> Parts:
        """Where the features are gone, the plan is enough: the engine knows whether it still has
        the embedding."""
        for key in self._named_keys(item, uuid, request):
            known = self._maker.find(item.kind, key, request, plans_only=True)
            if known is not None:
                return known
        raise cache_miss(item.kind, item.index, uuid)

    def _named_keys(self, item: MediaItem, uuid: str, request: RequestContext) -> Iterator[bytes]:
        """The keys that a uuid may stand for: without data, media or embeddings."""
        for embeds in (False, True):
            if embeds == (item.embeds is not None) or (item.embeds is None and not item.has_data):
                yield self._maker.key(item.kind, request, embeds=embeds, uuid=uuid)


def _named(parts: Parts, index: int, uuid: str | None) -> Parts:
    """The parts under the keys that the engine knows them by."""
    if uuid is None:
        return tuple(replace(part, index=index) for part in parts)
    keys = {part.key: planned_key(part.key, part.plan) for part in parts}
    return tuple(
        replace(
            part,
            index=index,
            uuid=uuid,
            key=keys[part.key],
            parent=None if part.parent is None else keys[part.parent],
        )
        for part in parts
    )


async def _hold(parts: Parts, claim: Claim) -> None:
    """Keeps the features counted until the request ends."""
    for part in parts:
        num_bytes = feature_bytes(part.features)
        if not claim.lease.try_hold(part.features, num_bytes):
            await claim.take(num_bytes)
            claim.settle(part.features, num_bytes)


async def _all(
    coroutines: Iterable[Coroutine[Any, Any, _Found]],
) -> list[_Found]:
    """Runs all at once; if one fails or the caller is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _end(tasks)
        del tasks  # they refer to an exception, and the exception to this frame


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _num_threads(given: int | None) -> int:
    text = os.environ.get(THREADS_VARIABLE)
    if given is not None:
        return given
    if not text:
        return min(16, os.cpu_count() or 1)
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{THREADS_VARIABLE} is {text!r}; it must be an integer of at least 1.")
    return int(text)


def _labelled(label: str, error: RequestError) -> RequestError:
    """The same kind of error with the item's name in front."""
    for cls in (LimitError, UnsupportedError, FetchError, MediaError):
        if isinstance(error, cls):
            return cls(f"{label}: {error}")
    return RequestError(f"{label}: {error}")
