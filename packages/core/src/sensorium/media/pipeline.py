"""``MediaPipeline``: media as callers gave them → items that an engine takes.

    limits → key by uuid → look up          hit: nothing is fetched or decoded
           → fetch → digest → look up       hit: nothing is decoded
           → probe → load → plan → process → store
    embeddings: check → digest → look up → plan → store

Work runs in a pool of threads, all of it for one item in one go; the event loop only waits, looks
up and hashes options. It knows no kind and no model: it asks ``MediaKind`` and ``MediaAdapter``.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from sensorium.errors import (
    CacheMissError,
    ConfigError,
    LimitError,
    PluginError,
    RequestError,
    cache_miss,
)
from sensorium.media.blame import labelled, plugin_errors
from sensorium.media.cache import CacheStats, Processed, ProcessorCache
from sensorium.media.embeds import Embeds, check_embeds
from sensorium.media.flight import SingleFlight, run_in
from sensorium.media.keys import derived_key, item_key
from sensorium.media.options import ProcessorOptions, ResolvedOptions
from sensorium.media.process import DecodeBudget, content_digest, fetch, load, process
from sensorium.media.threads import lone_workers
from sensorium.media.uuids import attach_uuids
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.kind import MediaKind
from sensorium.stats import MediaRecorder
from sensorium.types import PRECOMPUTED, GivenEmbeds, MediaItem, PreparedItem, Source

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
    """

    items: tuple[PreparedItem, ...] = ()
    num_hits: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    """What the items of one request share."""

    salt: str
    options: ResolvedOptions
    budget: DecodeBudget


@dataclass(frozen=True, slots=True)
class _Task:
    """What there is to do for an item once it is known which one it is.

    Attributes:
        flight: the same for equal work.
        find: looks into the cache.
        make: the work.
    """

    flight: bytes
    find: Callable[[], tuple[PreparedItem, ...] | None]
    make: Callable[[], tuple[PreparedItem, ...]]


#: An item and its derived ones, and whether they were there without work of one's own.
_Found = tuple[tuple[PreparedItem, ...], bool]


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
    ) -> None:
        self._kinds = {name: kind for name, kind in kinds.items() if name in adapters}
        self._adapters = dict(adapters)
        self._limits = {
            name: limits.get(name, kind.default_limit) for name, kind in self._kinds.items()
        }
        self._options = ProcessorOptions(self._adapters, processor_kwargs)
        self._uuids_ignored = uuids_ignored
        self._architecture = architecture
        self._find_kind = find_kind
        self._max_request_bytes = max_request_bytes
        self._embed_widths = dict(embed_widths or {})
        self._dtype = dtype
        self._cache = ProcessorCache(cache_bytes)
        self.recorder = MediaRecorder()
        self._executor = lone_workers(_num_threads(num_threads), "sensorium-media")
        self._flights: SingleFlight[tuple[PreparedItem, ...]] = SingleFlight(self._executor)

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
            MediaError: a value that is no form of its kind.
        """
        groups: dict[str, list[MediaItem]] = {}
        for name, value in data.items():
            kind = self._kind(name)
            with plugin_errors(kind, "split"):
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
    ) -> PreparedMedia:
        """Makes each item ready, or finds it ready.

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
        request = _Request(salt, options, DecodeBudget(self._max_request_bytes))
        results = await _all(self._prepare_item(item, request) for item in items)
        return PreparedMedia(
            items=tuple(part for parts, _ in results for part in parts),
            num_hits=sum(len(parts) for parts, hit in results if hit),
        )

    def reset(self) -> None:
        """Empties the processor cache."""
        self._cache.clear()

    def close(self) -> None:
        """Ends the threads; work that hasn't begun fails with ``EngineClosedError``."""
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

    async def _prepare_item(self, item: MediaItem, request: _Request) -> _Found:
        uuid = None if self._uuids_ignored else item.uuid
        try:
            if item.has_data:
                parts, hit = await self._find_or_make(item, uuid, request)
            else:
                assert uuid is not None, "an item without data and uuid was let through"
                parts, hit = await self._find_by_uuid(item, uuid, request)
        except CacheMissError:
            raise
        except RequestError as error:
            raise labelled(item.label, error) from error
        return tuple(replace(part, index=item.index, uuid=uuid) for part in parts), hit

    async def _find_or_make(self, item: MediaItem, uuid: str | None, request: _Request) -> _Found:
        if uuid is not None:
            task = self._task(item, uuid, request)
        else:
            task, parts, hit = await run_in(
                self._executor, partial(self._identify_and_try, item, request)
            )
            if parts is not None:
                return parts, hit
        parts, hit = await self._flights.run(task.flight, task.find, task.make)
        assert parts is not None, "work was given, and nothing came of it"
        return parts, hit

    def _identify_and_try(
        self, item: MediaItem, request: _Request
    ) -> tuple[_Task, tuple[PreparedItem, ...] | None, bool]:
        """Runs in a thread. Who has read an item to know it makes it as well, at once: were that
        other work, all items would be read before the first one is ready.

        Returns:
            The task, and what came of it: None, if another is at it.
        """
        task = self._task(item, None, request)
        return task, *self._flights.try_here(task.flight, task.find, task.make)

    def _task(self, item: MediaItem, uuid: str | None, request: _Request) -> _Task:
        """What there is to do for an item; without a uuid it is read here and now, to know it."""
        make: Callable[[], tuple[PreparedItem, ...]]
        content: bytes | None = None
        if item.embeds is not None:
            checked: Embeds | None = None
            if uuid is None:
                checked, content = self._identify_embeds(item.kind, item.embeds, request)
            key = self._key(item.kind, request, embeds=True, uuid=uuid, content=content)
            make = partial(self._take_embeds, item.kind, key, item.embeds, checked, request)
        else:
            kind, sources = self._kinds[item.kind], item.sources
            if uuid is None:
                sources, content = _identify(kind, sources)
            key = self._key(item.kind, request, embeds=False, uuid=uuid, content=content)
            make = partial(self._make, kind, key, sources, request)
        # The other kinds' options count too: derived items are made along with theirs.
        flight = key + request.options.fingerprint
        return _Task(flight, partial(self._find, item.kind, key, request.options), make)

    async def _find_by_uuid(self, item: MediaItem, uuid: str, request: _Request) -> _Found:
        """What is known under a uuid that came alone.

        Where the features are gone, the plan is enough: whether the embedding is still there,
        the engine knows.
        """
        options = request.options
        keys = [
            self._key(item.kind, request, embeds=embeds, uuid=uuid)
            for embeds in ((True,) if item.embeds is not None else (False, True))
        ]
        for key in keys:
            find = partial(self._find, item.kind, key, options)
            found, hit = await self._flights.run(key + options.fingerprint, find, None)
            if found is not None:
                return found, hit
        for key in keys:
            known = self._find(item.kind, key, options, plans_only=True)
            if known is not None:
                return known, False
        raise cache_miss(item.kind, item.index, uuid)

    def _key(
        self,
        kind: str,
        request: _Request,
        *,
        embeds: bool,
        uuid: str | None = None,
        content: bytes | None = None,
    ) -> bytes:
        adapter = self._adapters[kind]
        with plugin_errors(adapter, "making a key of its options"):
            return item_key(
                salt=request.salt,
                adapter=adapter,
                io_options=self._kinds[kind].options_key(),
                processor_options=request.options.by_kind[kind],
                embeds=embeds,
                uuid=uuid,
                content=content,
            )

    def _find(
        self, kind: str, key: bytes, options: ResolvedOptions, *, plans_only: bool = False
    ) -> tuple[PreparedItem, ...] | None:
        """The item with its derived ones, if the cache holds all of them (or all their plans)."""
        get = self._cache.get_plan if plans_only else self._cache.get
        found = get(key)
        if found is None:
            return None
        parts = [PreparedItem(kind, 0, key, found.plan, found.features)]
        for derived_kind, name in found.derived:
            part_key = self._derived_key(key, derived_kind, name, options)
            part = get(part_key)
            if part is None:
                return None
            parts.append(PreparedItem(derived_kind, 0, part_key, part.plan, part.features, key))
        return tuple(parts)

    def _make(
        self, kind: MediaKind, key: bytes, sources: Sequence[Source], request: _Request
    ) -> tuple[PreparedItem, ...]:
        """Runs in a thread; what it makes is in the cache when it returns."""
        loaded = load(kind, fetch(kind, sources), request.budget)
        own, *derived = process(kind.name, loaded, self._adapters, request.options.by_kind)
        items = [PreparedItem(kind.name, 0, key, own.plan, own.features)]
        names = []
        for part in derived:
            assert part.name is not None
            names.append((part.kind, part.name))
            part_key = self._derived_key(key, part.kind, part.name, request.options)
            items.append(PreparedItem(part.kind, 0, part_key, part.plan, part.features, key))
            self._cache.put(part_key, Processed(part.plan, part.features))
        self._cache.put(key, Processed(own.plan, own.features, tuple(names)))
        return tuple(items)

    def _identify_embeds(
        self, kind: str, given: GivenEmbeds, request: _Request
    ) -> tuple[Embeds, bytes]:
        embeds = self._check_embeds(kind, given, request)
        return embeds, embeds.digest()

    def _check_embeds(self, kind: str, given: GivenEmbeds, request: _Request) -> Embeds:
        embeds = check_embeds(
            given,
            width=self._embed_widths[kind],
            field_names=self._adapters[kind].embeds_fields,
            max_bytes=self._kinds[kind].max_decoded_bytes,
        )
        request.budget.take(embeds.num_bytes)
        return embeds

    def _take_embeds(
        self,
        kind: str,
        key: bytes,
        given: GivenEmbeds,
        checked: Embeds | None,
        request: _Request,
    ) -> tuple[PreparedItem, ...]:
        """Runs in a thread, as ``_make``; what it returns needs no encoder."""
        embeds = checked or self._check_embeds(kind, given, request)
        adapter, options = self._adapters[kind], request.options.by_kind[kind]
        with plugin_errors(adapter, "plan_embeds"):
            plan = adapter.plan_embeds(len(embeds.rows), embeds.fields, options)
        if plan.num_tokens != len(embeds.rows):
            raise PluginError(
                f"{type(adapter).__qualname__} planned {plan.num_tokens} tokens for "
                f"{len(embeds.rows)} embedding rows."
            )
        features = {PRECOMPUTED: {"rows": embeds.as_dtype(self._dtype)}}
        self._cache.put(key, Processed(plan, features))
        return (PreparedItem(kind, 0, key, plan, features),)

    def _derived_key(self, parent: bytes, kind: str, name: str, options: ResolvedOptions) -> bytes:
        return derived_key(parent, name, self._adapters[kind], options.by_kind[kind])


def _identify(kind: MediaKind, sources: Sequence[Source]) -> tuple[tuple[Source, ...], bytes]:
    fetched = fetch(kind, sources)
    return fetched, content_digest(kind, fetched)


async def _all(
    coroutines: Iterable[Coroutine[Any, Any, _Found]],
) -> list[_Found]:
    """Runs all at once; if one fails or the caller is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
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
