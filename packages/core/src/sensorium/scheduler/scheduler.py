"""``Scheduler``: decides which sequences compute which tokens in the next step.

    add → waiting ─ admitted ─→ running ─→ finished
             ↑                     │
             └──── preempted ──────┘        abort: from anywhere

Sequences are ranked by priority, then by arrival. In each step the running sequences continue,
decoding ones first, then prefilling ones; then waiting sequences are admitted while tokens, pages
and places last. A prompt is computed in chunks as large as the step's token budget allows, begins
behind the pages that the prefix cache already holds, and is cut where the encoder budget or an
atomic range says so. A waiting sequence whose next page a running sequence is just computing waits
for that page. When a sequence has no page for its next token, the sequence of lowest rank gives up
its pages and waits to be computed again.

No sequence waits for ever: the first in rank takes pages and encoder room from the others and never
gives up its own, and ``add`` refuses requests that wouldn't fit even alone.

A step may be planned while earlier ones still run: ``schedule`` treats their chunks as computed and
their sampled tokens as known; ``process`` takes the steps' outputs in, in order.

The scheduler handles pages, tokens and bytes as numbers and keys; the runner has their contents.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator

from sensorium.errors import RequestError, cache_miss
from sensorium.scheduler.cached_pages import CachedPages
from sensorium.scheduler.config import SchedulerConfig, SchedulerStats
from sensorium.scheduler.encoding import Encoding
from sensorium.scheduler.layout import ItemUse, Layout
from sensorium.scheduler.limits import check_fits
from sensorium.scheduler.page_pool import PagePool
from sensorium.scheduler.sequence import Sequence
from sensorium.scheduler.step import Step
from sensorium.types import (
    Batch,
    EngineRequest,
    Pooled,
    RequestUpdate,
    StepOutput,
    TokenLogprobs,
)


class Scheduler:
    """The policy. Used from one thread; every ``schedule`` is followed by its ``process``, at once
    or behind the next ``schedule``; ``add``, ``abort`` and the resets may come between two calls.

    Args:
        config: the limits.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._pool = PagePool(config.num_pages)
        self._cached = CachedPages(self._pool, config)
        self._encoding = Encoding(config)
        self._book = self._encoding.book
        self._pins = self._encoding.pins
        self._sequences: dict[str, Sequence] = {}
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._num_arrivals = 0
        self._first_in_turn: Sequence | None = None
        self._in_flight: deque[dict[str, tuple[Sequence, int]]] = deque()
        self._ended: list[str] = []
        self._news: list[RequestUpdate] = []
        self._num_preemptions = 0

    # --- what comes in --------------------------------------------------------------------

    def add(self, request: EngineRequest) -> None:
        """Queues a request.

        Raises:
            LimitError: it could never run: its prompt exceeds the context or the KV cache,
                an item (or several needed at once) the encoder cache, a range that must be
                computed in one step the step.
            CacheMissError: an item's features are not at hand, nor is its embedding, nor are the
                pages computed from it.
            RequestError: its prompt is empty, or its id is that of an unfinished request.
        """
        if request.request_id in self._sequences:
            raise RequestError(f"A request with the id {request.request_id!r} is still running.")
        layout = Layout(request, chunked=self._config.chunked_prefill)
        check_fits(request, layout, self._config)
        sequence = Sequence(request, self._num_arrivals, layout, self._config)
        if (lost := self._lost_item(sequence)) is not None:
            raise cache_miss(lost.item.kind, lost.item.index, lost.item.uuid)
        for use in layout.uses:
            self._book.touch(use.key)
        if layout.uses and self._pins.has_share(sequence, self._running, self._waiting):
            self._pins.pin_irreplaceable(sequence)
        self._num_arrivals += 1
        self._sequences[request.request_id] = sequence
        insort(self._waiting, sequence, key=_rank)

    def abort(self, request_ids: Iterable[str]) -> list[RequestUpdate]:
        """Ends requests in any state; unknown ids are ignored.

        Between ``schedule`` and ``process``, what the step computes for them is dropped.
        """
        found = [self._sequences[i] for i in request_ids if i in self._sequences]
        return [self._finish(s, "abort") for s in found if not s.is_finished]

    def give(
        self, request_id: str, token_ids: Iterable[int], *, is_end: bool = False
    ) -> list[RequestUpdate]:
        """Appends tokens that must follow a request's last known one; unknown ids are ignored.

        They are computed together in a later step, and reported with the token sampled after them.
        A pending token is the first of them, so the step that samples it must be made to choose it.

        Args:
            is_end: the answer ends behind them; a pending token, if they are none, is dropped.

        Returns:
            The request's last update, if it ends with them and there is nothing left to compute.
        """
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return []
        sequence.give(token_ids, is_end=is_end)
        return [] if sequence.finish_reason is None else self._tell(sequence, sequence.tell())

    def fail(self, request_id: str, sentence: str) -> list[RequestUpdate]:
        """Ends a request with an error; unknown ids are ignored."""
        sequence = self._sequences.get(request_id)
        return [] if sequence is None else [self._finish(sequence, "error", error=sentence)]

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached pages; False, and nothing forgotten, while any page is in use."""
        if self._pool.num_used:
            return False
        self._pool.forget_all()
        return True

    def reset_encoder_cache(self) -> None:
        """Forgets all embeddings but those that running requests still need."""
        self._book.discard_unpinned()

    # --- what can be asked ----------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether ``schedule`` has work, even if only to tell the runner what to forget."""
        return bool(self._sequences or self._ended or self._book.has_evicted)

    def has_embedding(self, key: bytes) -> bool:
        """Whether the item with this key is encoded, or its last piece is being so."""
        return self._book.is_complete(key)

    @property
    def stats(self) -> SchedulerStats:
        """The counts at this moment."""
        return SchedulerStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_pages=self._pool.num_pages,
            num_used_pages=self._pool.num_used,
            num_known_pages=self._pool.num_known,
            encoder_used_bytes=self._book.used_bytes,
            encoder_pinned_bytes=self._book.pinned_bytes,
            num_prefix_queries=self._cached.num_queries,
            num_prefix_hits=self._cached.num_hits,
            num_preemptions=self._num_preemptions,
            page_size=self._config.page_size,
            encoder_cache_bytes=self._config.encoder_cache_bytes,
        )

    def check_integrity(self) -> None:
        """Compares all books with each other.

        Raises:
            AssertionError: they differ; without unfinished requests, also if anything is held.
        """
        alive = [*self._running, *self._waiting]
        assert sorted(alive, key=lambda s: s.arrival) == list(self._sequences.values())
        assert all(s.is_running for s in self._running)
        assert not any(s.is_running or s.pages for s in self._waiting)
        assert self._waiting == sorted(self._waiting, key=_rank)
        self._pool.check_integrity(s.pages for s in alive)
        self._book.check_integrity(s.request.items[i].key for s in alive for i in s.pins)
        assert not any(s.num_pending for s in alive) or self._in_flight, "a token is never to come"
        assert not self._encoding.is_under_way or self._in_flight, "an embedding is never to come"
        if not alive:
            assert self._pool.num_used == 0, "pages are held with nothing running"
            assert self._book.pinned_bytes == 0, "embeddings are held with nothing running"

    # --- a step ---------------------------------------------------------------------------

    def schedule(self) -> Batch:
        """Decides the next step.

        Until it is known whether an item could be encoded, only the sequence that had it encoded,
        which would fail anyway, and sequences that use it in the same step continue past it.

        The runner carries a batch out in this order: drop what is in ``ended`` and ``evict``
        (either may hold unknown ids or keys), take in ``started``, encode, then compute. An id may
        be in ``ended`` and, as a new request, in ``started``. Chunks of a request that started
        again hold its generated tokens too: those at positions from ``len(request.token_ids)`` on,
        whether the runner has seen them before or not.
        """
        step = Step(self._config.max_num_batched_tokens)
        for sequence in self._in_turn(step):
            self._advance(sequence, step)
        self._make_encoder_room(step)
        self._admit_waiting(step)
        return self._dispatch(step)

    def process(self, batch: Batch, output: StepOutput) -> list[RequestUpdate]:
        """Takes in the output of the oldest batch still running, and returns updates.

        A request in ``output.failed`` ends with "error". What it should have encoded counts as
        not encoded, in none of its pieces, so every other request whose chunk lacked that
        embedding must have failed too.
        """
        assert self._in_flight, "process was called before schedule"
        sequences = self._in_flight.popleft()
        self._encoding.take_in(batch)
        tokens = {sampled.request_id: sampled for sampled in output.tokens}
        for task in batch.encode:
            if task.request_id in output.failed:
                self._undo_encode(task.key, batch)
        for request_id, sentence in output.failed.items():
            if request_id in sequences and not sequences[request_id][0].is_finished:
                failed = self._finish(sequences[request_id][0], "error", error=sentence)
                self._news.append(failed)
        for chunk in batch.chunks:
            sequence, life = sequences[chunk.request_id]
            if sequence.is_finished:
                continue
            if life == sequence.num_lives and sequence.is_running:
                self._cached.register(sequence, chunk.stop)
                if sequence.pins:
                    self._pins.unpin_consumed(sequence)
            if found := output.prompt_logprobs.get(chunk.request_id):
                self._news.append(sequence.update(prompt_logprobs=found))
            if not chunk.num_rows:
                if sequence.has_enough(chunk):
                    self._news.append(self._finish(sequence, "length"))
            elif sequence.embeds:
                pooled = output.pooled[chunk.request_id]
                self._news.append(self._finish(sequence, "stop", pooled=pooled))
            else:
                assert chunk.request_id in tokens, "the runner left a token out"
                new, logprobs = sequence.take(chunk, tokens[chunk.request_id])
                if sequence.finish_reason is not None:
                    self._news += self._tell(sequence, new, logprobs)
                elif new:
                    self._news.append(sequence.update(new, logprobs))
        news, self._news = self._news, []
        return news

    # --- running sequences go on ----------------------------------------------------------

    def _in_turn(self, step: Step) -> Iterator[Sequence]:
        """The running sequences in the order in which they may take from the step.

        A sequence whose uncut chunk didn't fit into the last step goes first. Notes in the step
        whether any of them decodes.
        """
        urgent, self._first_in_turn = self._first_in_turn, None
        order: list[Sequence] = [] if urgent is None else [urgent]
        prefilling: list[Sequence] = []
        for sequence in self._running:
            if sequence is not urgent:
                (prefilling if sequence.is_prefilling else order).append(sequence)
        step.decodes = any(not s.is_prefilling for s in order[:2])
        order += prefilling
        return (sequence for sequence in order if sequence.is_running and not sequence.must_wait)

    def _advance(self, sequence: Sequence, step: Step) -> None:
        """Adds as many of the sequence's tokens to the step as budgets allow."""
        if step.budget == 0 or not self._grow(sequence, step):
            return
        stop = self._token_stop(sequence, step)
        if stop == sequence.num_computed:
            self._first_in_turn = self._first_in_turn or sequence
            step.admits = False
            return
        if sequence.num_computed < sequence.layout.end:
            stop = self._encoding.advance(sequence, stop, step)
            if stop == sequence.num_computed:
                return
        step.add_chunk(sequence, stop)

    def _grow(self, sequence: Sequence, step: Step) -> bool:
        """Gives the sequence the pages it lacks, preempting later ones if need be."""
        num_missing = sequence.num_missing_pages
        if num_missing <= 0:
            return True
        while num_missing > self._pool.num_free:
            later = [s for s in self._running if s.rank > sequence.rank and s not in step]
            if not later:
                return False
            self._preempt(max(later, key=_rank), step)
        sequence.pages += tuple(self._pool.allocate(num_missing))
        return True

    def _token_stop(self, sequence: Sequence, step: Step) -> int:
        """How far the token budget lets the sequence get: its end, or where it may be cut."""
        start, end = sequence.num_computed, sequence.end
        if end - start <= step.budget:
            return end
        if self._config.chunked_prefill:
            return max(start, sequence.layout.cut_before(start + step.budget))
        return start if step.chunks else end

    def _make_encoder_room(self, step: Step) -> None:
        """Gives the first sequence without encoder room that of later ones.

        Only where no prefilling sequence advances: otherwise the advancing one unpins its
        embeddings in time. Sequences block each other in this way only if they hold several
        embeddings at once.
        """
        blocked = [s for s in step.lacks_room if s.is_running]
        if not blocked or step.has_prefill:
            return
        first = min(blocked, key=_rank)
        later = [s for s in self._running if s.rank > first.rank and s.is_prefilling]
        for holder in sorted(later, key=_rank, reverse=True):
            if holder.pins and first not in step:
                self._preempt(holder, step)
                self._advance(first, step)

    def _preempt(self, sequence: Sequence, step: Step) -> None:
        """Takes back the sequence's pages and embeddings; it waits to be computed again."""
        self._running.remove(sequence)
        self._release_pages(sequence)
        self._pins.unpin_replaceable(sequence)
        sequence.is_running = False
        sequence.num_computed = 0
        sequence.num_preemptions += 1
        self._num_preemptions += 1
        insort(self._waiting, sequence, key=_rank)
        step.admits = False

    # --- waiting ones join ----------------------------------------------------------------

    def _admit_waiting(self, step: Step) -> None:
        """Admits waiting sequences in order until the first that has no room.

        A sequence that was preempted while its last token is being sampled waits for that token.
        Where the encoder budget is exhausted, preempted sequences may still continue, since they
        keep their share until they end.
        """
        lacks_share = False
        for sequence in list(self._waiting):
            if not step.admits or step.budget == 0 or sequence.num_pending:
                return
            if len(self._running) == self._config.max_num_seqs:
                return
            if self._lost_item(sequence) is not None:
                self._report_loss(sequence)
                continue
            if self._cached.next_is_coming(sequence, self._running):
                continue
            if sequence.layout.uses and not lacks_share:
                lacks_share = not self._pins.make_share(sequence, self._running, self._waiting)
            if lacks_share and not sequence.was_admitted:
                continue
            if not self._admit(sequence):
                return
            self._advance(sequence, step)

    def _admit(self, sequence: Sequence) -> bool:
        """Gives a waiting sequence pages for all its tokens, cached ones first, or nothing.

        Leaves each running sequence a page to grow into, so that it needn't preempt this one at
        once.
        """
        cached = self._cached.of(sequence)
        num_new = sequence.num_missing_pages - len(cached)
        num_free = self._pool.num_free - self._pool.num_free_among(cached)
        if num_new + len(self._running) > num_free:
            return False
        self._pool.share(cached)
        sequence.pages = (*cached, *self._pool.allocate(num_new))
        sequence.num_computed = len(cached) * self._config.page_size
        sequence.num_registered = len(cached)
        if sequence.layout.uses:
            self._pins.pin_irreplaceable(sequence)
        if not sequence.was_admitted:
            self._cached.count(sequence)
        sequence.was_admitted = True
        sequence.is_running = True
        sequence.num_lives += 1
        sequence.prefill_end = sequence.num_tokens
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=_rank)
        return True

    def _lost_item(self, sequence: Sequence) -> ItemUse | None:
        """An item of a waiting sequence that no cache holds any more, in any form."""
        if not sequence.layout.uses:
            return None
        lost = self._pins.lost_item(sequence, num_done=0)
        if lost is None:
            return None
        num_cached = len(self._cached.of(sequence)) * self._config.page_size
        return self._pins.lost_item(sequence, num_cached)

    def _dispatch(self, step: Step) -> Batch:
        now_s = time.monotonic()
        started = [s for s, _ in step.sequences.values() if not s.is_started]
        for sequence in started:
            sequence.is_started = True
            if sequence.first_scheduled_s is None:
                sequence.first_scheduled_s = now_s
        ended, self._ended = self._ended, []
        self._in_flight.append(step.sequences)
        self._encoding.dispatch(step)
        return Batch(
            started=tuple(sequence.request for sequence in started),
            encode=tuple(step.encode),
            chunks=tuple(step.chunks),
            evict=self._book.take_evicted(),
            ended=tuple(ended),
        )

    # --- what became of a step ------------------------------------------------------------

    def _tell(
        self,
        sequence: Sequence,
        token_ids: tuple[int, ...],
        logprobs: tuple[TokenLogprobs, ...] = (),
    ) -> list[RequestUpdate]:
        """Reports the new tokens of a sequence that ends, and its end if the last one is told."""
        reason = sequence.finish_reason
        if reason is not None and sequence.num_told == len(sequence.token_ids):
            return [self._finish(sequence, reason, token_ids=token_ids, logprobs=logprobs)]
        if not token_ids:
            return []
        return [sequence.update(token_ids, logprobs)]

    def _undo_encode(self, key: bytes, batch: Batch) -> None:
        """Forgets an embedding that wasn't made; sequences that need it encode it again, or
        fail."""
        self._pins.discard(key, self._sequences.values())
        starts = {chunk.request_id: chunk.start for chunk in batch.chunks}
        for sequence in list(self._sequences.values()):
            if sequence.is_running:
                num_done = starts.get(sequence.request_id, sequence.num_computed)
                lost = self._pins.lost_item(sequence, num_done)
            elif sequence.was_admitted:
                lost = self._lost_item(sequence)
            else:
                continue
            if lost is not None:
                self._report_loss(sequence)

    def _report_loss(self, sequence: Sequence) -> None:
        lost = self._pins.lost_item(sequence, num_done=0)
        assert lost is not None
        sentence = str(cache_miss(lost.item.kind, lost.item.index, lost.item.uuid))
        self._news.append(self._finish(sequence, "error", error=sentence, lost_item=True))

    def _finish(
        self,
        sequence: Sequence,
        reason: str,
        *,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        pooled: Pooled | None = None,
        error: str | None = None,
        lost_item: bool = False,
    ) -> RequestUpdate:
        """Gives back everything the sequence holds."""
        (self._running if sequence.is_running else self._waiting).remove(sequence)
        del self._sequences[sequence.request_id]
        self._release_pages(sequence)
        if sequence.pins:
            self._pins.unpin_all(sequence)
        sequence.is_running = False
        sequence.is_finished = True
        return sequence.update(
            token_ids,
            logprobs,
            pooled=pooled,
            finish_reason=reason,
            error=error,
            lost_item=lost_item,
        )

    def _release_pages(self, sequence: Sequence) -> None:
        """Gives back its pages, and tells the runner to forget it if it knows it."""
        self._pool.release(sequence.pages)
        sequence.pages = ()
        if sequence.is_started:
            self._ended.append(sequence.request_id)
            sequence.is_started = False


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank
