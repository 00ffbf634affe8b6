"""A runner without a model: it computes nothing, and checks everything it is told.

It keeps a KV cache whose slots hold, instead of keys and values, a hash of all that a real
decoder's keys and values there would depend on: every earlier token, its position, the
embedding rows in its place, and what it sees behind itself. The next token is a function of
the last slot. So a page shared wrongly, written too early or reused too soon holds what the
sequence would not have written, and ``StandInRunner`` says so; what a request must answer is
known without running it (``expected_answer``).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from sensorium.sampling_params import SamplingParams
from sensorium.scheduler import Scheduler, SchedulerConfig
from sensorium.types import (
    PENDING,
    Batch,
    Chunk,
    EncodeTask,
    EngineItem,
    EngineRequest,
    Features,
    MediaSpan,
    RequestUpdate,
    SampledToken,
    StepOutput,
)

VOCAB = 5


def scheduler_config(**changes: Any) -> SchedulerConfig:
    """A small engine's limits."""
    limits: dict[str, Any] = {
        "page_size": 4,
        "num_pages": 64,
        "max_num_batched_tokens": 16,
        "max_num_seqs": 8,
        "max_model_len": 128,
        "prefix_caching": True,
        "chunked_prefill": True,
        "encoder_cache_bytes": 100,
    }
    return SchedulerConfig(**(limits | changes))


def item(key: bytes, num_tokens: int, *, num_bytes: int = 10, features: bool = True) -> EngineItem:
    """An item of a kind that nobody ships."""
    encoders: dict[str, Features] = {"nose": {}} if features else {}
    return EngineItem(key, "scent", num_tokens, num_bytes, encoders)


def request(
    request_id: str,
    token_ids: Sequence[int],
    *,
    max_tokens: int = 4,
    min_tokens: int = 0,
    stop_ids: Sequence[int] = (),
    **fields: Any,
) -> EngineRequest:
    """A request with the fields that schedulers care for."""
    sampling = SamplingParams(max_tokens=max_tokens, min_tokens=min_tokens).filled({})
    return EngineRequest(
        request_id=request_id,
        token_ids=tuple(token_ids),
        sampling=sampling,
        max_tokens=max_tokens,
        stop_ids=frozenset(stop_ids),
        **fields,
    )


def embedded_rows(request: EngineRequest) -> dict[int, tuple[int, int]]:
    """Position → (item, row of its embedding)."""
    rows: dict[int, tuple[int, int]] = {}
    for span in request.spans:
        row = span.item_slice[0]
        for i in range(span.length):
            if span.is_embed is None or span.is_embed[i]:
                assert span.offset + i not in rows, "two spans claim one position"
                rows[span.offset + i] = span.item, row
                row += 1
        assert row == span.item_slice[1]
    return rows


def slot_values(request: EngineRequest, token_ids: Sequence[int]) -> list[bytes]:
    """What the slots of all ``token_ids`` must hold."""
    inputs = _inputs(request, token_ids)
    seen = _seen_together(request.spans)
    values: list[bytes] = []
    before = b""
    for i, own in enumerate(inputs):
        ahead = next((inputs[start:stop] for start, stop in seen if start <= i < stop), ())
        text = repr((before, own, ahead)).encode()
        before = hashlib.blake2b(text, digest_size=16).digest()
        values.append(before)
    return values


def _inputs(request: EngineRequest, token_ids: Sequence[int]) -> list[object]:
    rows = embedded_rows(request)
    inputs: list[object] = []
    for i, token in enumerate(token_ids):
        position = [i + request.position_delta]
        if i < len(request.token_ids):
            given = request.positions
            position = [i] if given is None else [int(p) for p in given[:, i]]
        position = sorted(set(position)) if len(set(position)) == 1 else position
        if i in rows:
            index, row = rows[i]
            inputs.append((request.items[index].key, row, position))
        else:
            inputs.append((token, position))
    return inputs


def _seen_together(spans: Sequence[MediaSpan]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for span in sorted((s for s in spans if s.non_causal), key=lambda s: s.offset):
        if merged and span.offset < merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], span.end)
        else:
            merged.append((span.offset, span.end))
    return merged


def next_token(value: bytes) -> int:
    """What is sampled behind a slot that holds ``value``."""
    return value[0] % VOCAB


def expected_answer(request: EngineRequest, config: SchedulerConfig) -> tuple[list[int], str]:
    """The tokens that the request must get, and why it ends, whatever runs beside it."""
    token_ids = list(request.token_ids)
    answer: list[int] = []
    room = min(config.max_model_len, config.page_size * config.num_pages + 1) - len(token_ids)
    while True:
        token = next_token(slot_values(request, token_ids)[-1])
        token_ids.append(token)
        answer.append(token)
        if token in request.stop_ids and len(answer) > request.sampling.min_tokens:
            return answer, "stop"
        if len(answer) == min(request.max_tokens, room):
            return answer, "length"


class StandInRunner:
    """Carries batches out and fails at whatever a real runner could not have done.

    Args:
        config: the limits that batches must keep.
        failures: (request id, how many of its chunks ran before) that fail.

    Attributes:
        requests: those it knows.
        cache: key → bytes of the embeddings it has.
        num_encodes: key → how often it was encoded.
        max_batched_tokens: the longest step so far.
    """

    def __init__(
        self, config: SchedulerConfig, failures: frozenset[tuple[str, int]] = frozenset()
    ) -> None:
        self.config = config
        self._failures = failures
        self._slots: dict[int, bytes] = {}
        self._values: dict[str, tuple[tuple[int, ...], list[bytes]]] = {}
        self._num_chunks: dict[str, int] = {}
        self._tokens: dict[str, list[int]] = {}
        self._broken: set[str] = set()
        self.requests: dict[str, EngineRequest] = {}
        self.cache: dict[bytes, int] = {}
        self.num_encodes: dict[bytes, int] = {}
        self.max_batched_tokens = 0

    def step(self, batch: Batch) -> StepOutput:
        """Ends, drops, starts, encodes, writes all slots, then checks and samples."""
        for request_id in batch.ended:
            del self.requests[request_id], self._tokens[request_id]
            self._broken.discard(request_id)
        for key in batch.evict:
            self.cache.pop(key, None)
        for started in batch.started:
            assert started.request_id not in self.requests
            self.requests[started.request_id] = started
            self._tokens[started.request_id] = list(started.token_ids)
        failed = {chunk.request_id for chunk in batch.chunks if self._fails(chunk)}
        failed |= self._broken & {chunk.request_id for chunk in batch.chunks}
        not_made = {task.key for task in batch.encode if not self._encode(task, failed)}
        self._check_sizes(batch)
        for chunk in batch.chunks:
            self._check_chunk(chunk)
            if self._misses_embedding(chunk, not_made):
                failed.add(chunk.request_id)
            self._write(chunk, garbage=chunk.request_id in failed)
        good = [chunk for chunk in batch.chunks if chunk.request_id not in failed]
        for chunk in good:
            self._check_slots(chunk)
        tokens = [self._sample(chunk) for chunk in good if chunk.samples]
        self._broken |= failed
        return StepOutput(tuple(tokens), dict.fromkeys(failed, "It was made to fail."))

    def _fails(self, chunk: Chunk) -> bool:
        count = self._num_chunks.get(chunk.request_id, 0)
        self._num_chunks[chunk.request_id] = count + 1
        return (chunk.request_id, count) in self._failures

    def _encode(self, task: EncodeTask, failed: set[str]) -> bool:
        source = self.requests[task.request_id].items[task.item]
        assert source.key == task.key
        assert source.features, "an item is to be encoded without features"
        assert task.key not in self.cache, "an item is encoded twice"
        if task.request_id in failed:
            return False
        self.cache[task.key] = source.embed_bytes
        self.num_encodes[task.key] = self.num_encodes.get(task.key, 0) + 1
        return True

    def _check_sizes(self, batch: Batch) -> None:
        num_bytes = sum(self.cache.values())
        assert num_bytes <= self.config.encoder_cache_bytes, "embeddings exceed their budget"
        num_tokens = sum(len(chunk.token_ids) for chunk in batch.chunks)
        limit = self.config.max_num_batched_tokens
        wide = not self.config.chunked_prefill and len(batch.chunks) == 1
        assert num_tokens <= limit or wide, "the step has too many tokens"
        assert len(self.requests) <= self.config.max_num_seqs
        ids = [chunk.request_id for chunk in batch.chunks]
        assert len(set(ids)) == len(ids)
        assert all(chunk.token_ids for chunk in batch.chunks)
        self.max_batched_tokens = max(self.max_batched_tokens, num_tokens)

    def _check_chunk(self, chunk: Chunk) -> None:
        """A real runner learns generated tokens from its own sampling and from chunks only."""
        tokens = self._tokens[chunk.request_id]
        if chunk.request_id in self._broken:
            return
        assert chunk.start <= len(tokens), "the runner was never shown some generated tokens"
        own = list(chunk.token_ids)
        if own[-1] == PENDING:
            assert chunk.stop == len(tokens), "a token is pending that was never sampled"
            own[-1] = tokens[-1]
        assert PENDING not in own, "a token is pending that isn't the last one"
        assert tokens[chunk.start : chunk.stop] == own[: len(tokens) - chunk.start]
        tokens[chunk.start : chunk.stop] = own
        prompt_len = len(self.requests[chunk.request_id].token_ids)
        assert not chunk.samples or chunk.stop >= prompt_len, "sampled inside a prompt"
        assert len(chunk.pages) * self.config.page_size >= chunk.stop
        assert all(0 <= page < self.config.num_pages for page in chunk.pages)
        assert len(set(chunk.pages)) == len(chunk.pages)
        for span in self.requests[chunk.request_id].spans:
            if span.atomic or span.non_causal:
                inside = chunk.start <= span.offset and span.end <= chunk.stop
                outside = span.end <= chunk.start or chunk.stop <= span.offset
                assert inside or outside, "an atomic span was cut"

    def _misses_embedding(self, chunk: Chunk, not_made: set[bytes]) -> bool:
        request = self.requests[chunk.request_id]
        if chunk.request_id in self._broken:
            return True
        rows = embedded_rows(request)
        keys = {request.items[rows[i][0]].key for i in range(chunk.start, chunk.stop) if i in rows}
        missing = keys - set(self.cache)
        assert missing <= not_made, "a chunk's embedding isn't there"
        return bool(missing)

    def _slot(self, chunk: Chunk, position: int) -> int:
        page, offset = divmod(position, self.config.page_size)
        return chunk.pages[page] * self.config.page_size + offset

    def _write(self, chunk: Chunk, *, garbage: bool) -> None:
        values = [] if garbage else self._values_of(chunk)
        for position in range(chunk.start, chunk.stop):
            self._slots[self._slot(chunk, position)] = b"garbage" if garbage else values[position]

    def _check_slots(self, chunk: Chunk) -> None:
        values = self._values_of(chunk)
        for position in range(chunk.stop):
            held = self._slots.get(self._slot(chunk, position))
            assert held == values[position], f"{chunk.request_id} reads a wrong slot at {position}"

    def _sample(self, chunk: Chunk) -> SampledToken:
        token = next_token(self._slots[self._slot(chunk, chunk.stop - 1)])
        self._tokens[chunk.request_id][chunk.stop :] = [token]
        return SampledToken(chunk.request_id, token)

    def _values_of(self, chunk: Chunk) -> list[bytes]:
        """By the tokens the runner knows; kept, since nothing changes but at the end."""
        tokens = tuple(self._tokens[chunk.request_id][: max(chunk.stop, 1)])
        request = self.requests[chunk.request_id]
        tokens = tokens + request.token_ids[len(tokens) :]  # what is seen ahead lies in the prompt
        known = self._values.get(chunk.request_id)
        if known is None or known[0] != tokens:
            known = tokens, slot_values(request, tokens)
            self._values[chunk.request_id] = known
        return known[1]


class StandInEngine:
    """A scheduler and a stand-in runner, stepped together and checked after every step.

    Args:
        depth: how many steps may run while the next one is planned.

    Attributes:
        updates: all news by request id.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        failures: frozenset[tuple[str, int]] = frozenset(),
        depth: int = 0,
    ) -> None:
        self.depth = depth
        self._running: deque[tuple[Batch, StepOutput]] = deque()
        self.scheduler = Scheduler(config)
        self.runner = StandInRunner(config, failures)
        self.batches: list[Batch] = []
        self.updates: dict[str, list[RequestUpdate]] = {}

    def add(self, *requests: EngineRequest) -> None:
        """Adds them in order."""
        for request in requests:
            self.scheduler.add(request)

    def abort(self, *request_ids: str) -> None:
        """Aborts them and takes in the updates."""
        self._take(self.scheduler.abort(request_ids))

    def step(self, *, abort_meanwhile: Sequence[str] = ()) -> Batch:
        """One step; ids in ``abort_meanwhile`` are aborted between schedule and process."""
        batch = self.scheduler.schedule()
        self.scheduler.check_integrity()
        self.abort(*abort_meanwhile)
        self._running.append((batch, self.runner.step(batch)))
        assert batch != Batch() or len(self._running) > 1 or self.scheduler._news, "an empty step"
        is_last = batch.encode or not batch.chunks
        while len(self._running) > (0 if is_last else self.depth):
            news = self.scheduler.process(*self._running.popleft())
            self.scheduler.check_integrity()
            self._take(news)
        self.batches.append(batch)
        return batch

    def finish(self, max_steps: int = 1000) -> None:
        """Steps until nothing is left, and checks that nothing is held anywhere."""
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work, f"not done after {max_steps} steps"
        assert not self._running, "a step was never taken in"
        self.scheduler.check_integrity()
        assert not self.runner.requests, "the runner was not told to forget all requests"
        stats = self.scheduler.stats
        assert stats.num_used_pages == stats.encoder_pinned_bytes == 0
        assert stats.encoder_used_bytes == sum(self.runner.cache.values())
        assert all(self.scheduler.has_embedding(key) for key in self.runner.cache)

    def answer(self, request_id: str) -> tuple[list[int], str | None]:
        """The tokens so far and the finish reason."""
        updates = self.updates.get(request_id, [])
        tokens = [token for update in updates for token in update.new_token_ids]
        return tokens, updates[-1].finish_reason if updates else None

    def last(self, request_id: str) -> RequestUpdate:
        """The newest update."""
        return self.updates[request_id][-1]

    def _take(self, updates: Sequence[RequestUpdate]) -> None:
        for update in updates:
            before = self.updates.setdefault(update.request_id, [])
            assert not before or before[-1].finish_reason is None, "news behind the last ones"
            before.append(update)
