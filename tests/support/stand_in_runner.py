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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stand_in_grammar import Rule, StandInGrammars

from sensorium.engine.core import EngineCore
from sensorium.sampling_params import SamplingParams
from sensorium.scheduler import Scheduler, SchedulerConfig
from sensorium.types import (
    PENDING,
    Batch,
    Chunk,
    EncodeTask,
    EngineItem,
    EngineRequest,
    ExecutorInfo,
    Features,
    Masks,
    MediaSpan,
    RequestUpdate,
    SampledTokens,
    StepOutput,
    TokenLogprobs,
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


def item(
    key: bytes,
    num_tokens: int,
    *,
    num_bytes: int = 10,
    features: bool = True,
    num_pieces: int = 1,
) -> EngineItem:
    """An item of a kind that nobody ships."""
    encoders: dict[str, Features] = {"nose": {}} if features else {}
    return EngineItem(key, "scent", num_tokens, num_bytes, encoders, num_pieces=num_pieces)


def request(
    request_id: str,
    token_ids: Sequence[int],
    *,
    max_tokens: int = 4,
    min_tokens: int = 0,
    stop_ids: Sequence[int] = (),
    logprobs: int | None = None,
    **fields: Any,
) -> EngineRequest:
    """A request with the fields that schedulers care for."""
    sampling = SamplingParams(
        max_tokens=max_tokens, min_tokens=min_tokens, logprobs=logprobs
    ).filled({})
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


def choice_of(value: bytes, allowed: Sequence[int] | None = None) -> int:
    """What is sampled behind a slot that holds ``value``: the allowed token that comes next."""
    token = next_token(value)
    return token if allowed is None else min(allowed, key=lambda other: (other - token) % VOCAB)


def logprobs_of(value: bytes, token: int) -> TokenLogprobs:
    """What is said of a token behind a slot that holds ``value``."""
    return TokenLogprobs(-float(value[1]), 1 + (token - next_token(value)) % VOCAB, (), ())


def expected_answer(
    request: EngineRequest, config: SchedulerConfig, rule: Rule | None = None
) -> tuple[list[int], str]:
    """The tokens that the request must get, and why it ends, whatever runs beside it."""
    token_ids = list(request.token_ids)
    num_prompt = len(token_ids)
    room = min(config.max_model_len, config.page_size * config.num_pages + 1) - num_prompt

    def end() -> str | None:
        count = len(token_ids) - num_prompt
        if token_ids[-1] in request.stop_ids and count > request.sampling.min_tokens:
            return "stop"
        return "length" if count == min(request.max_tokens, room) else None

    while True:
        for token in () if rule is None else rule.forced(token_ids[num_prompt:]):
            token_ids.append(token)
            if (reason := end()) is not None:
                return token_ids[num_prompt:], reason
        if rule is not None and rule.completes(token_ids[num_prompt:]):
            return token_ids[num_prompt:], "stop"
        allowed = None if rule is None else rule.allowed(token_ids[num_prompt:])
        token_ids.append(choice_of(slot_values(request, token_ids)[-1], allowed))
        if (reason := end()) is not None:
            return token_ids[num_prompt:], reason


class StandInRunner:
    """Carries batches out, as an ``Executor``, and fails at whatever a real runner could not have
    done.

    Args:
        config: the limits that batches must keep.
        failures: (request id, how many steps had a chunk or an item of its before) that fail. With
            an even number what it should have encoded isn't made, with an odd one it is.
        overlaps: steps are told of only when somebody asks, as on an accelerator.

    Attributes:
        requests: those it knows.
        cache: key → bytes of the embeddings it has.
        parts: key → how many pieces of an embedding in the making it has; -1: one failed.
        num_encodes: key → how often it was encoded.
        max_batched_tokens: the longest step so far.
        open: steps that were started and not told of yet, the oldest first.
        most_open: how many there were at once at most.
        wrong: what it was asked to do that no runner could; a step loop may go on all the same.
        on_launch: called with each batch before it is carried out.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        failures: frozenset[tuple[str, int]] = frozenset(),
        *,
        overlaps: bool = False,
    ) -> None:
        self.config = config
        self._failures = failures
        self._overlaps = overlaps
        self._slots: dict[int, bytes] = {}
        self._values: dict[str, tuple[tuple[int, ...], list[bytes]]] = {}
        self._num_chunks: dict[str, int] = {}
        self._tokens: dict[str, list[int]] = {}
        self._broken: set[str] = set()
        self._launched: StandInStep | None = None
        self.requests: dict[str, EngineRequest] = {}
        self.cache: dict[bytes, int] = {}
        self.parts: dict[bytes, tuple[EngineItem, int]] = {}
        self.num_encodes: dict[bytes, int] = {}
        self._decodes: set[str] = set()
        self.max_batched_tokens = 0
        self.open: list[StandInStep] = []
        self.most_open = 0
        self.wrong: AssertionError | None = None
        self.on_launch: Callable[[Batch], None] = lambda batch: None

    @property
    def info(self) -> ExecutorInfo:
        """As its limits say."""
        return ExecutorInfo(
            device="nowhere",
            dtype="none",
            overlaps=self._overlaps,
            vocab_size=VOCAB,
            max_model_len=self.config.max_model_len,
            num_pages=self.config.num_pages,
        )

    def close(self) -> None:
        """There is nothing to give back."""

    def step(self, batch: Batch) -> StepOutput:
        """Carries out one batch, and waits for it."""
        return self.sample(self.launch(batch)).result()

    def launch(self, batch: Batch) -> StandInStep:
        """Ends, drops, starts, encodes, writes all slots, then checks them."""
        try:
            return self._launch(batch)
        except Exception as error:
            if isinstance(error, AssertionError):
                self.wrong = error
            self._broken |= _asked(batch)
            raise

    def _launch(self, batch: Batch) -> StandInStep:
        self.on_launch(batch)
        assert self._launched is None, "the step before was never sampled"
        for request_id in batch.ended:
            del self.requests[request_id], self._tokens[request_id]
            self._broken.discard(request_id)
            self._decodes.discard(request_id)
        for key in batch.evict:
            self.cache.pop(key, None)
            self.parts.pop(key, None)
        for started in batch.started:
            assert started.request_id not in self.requests
            self.requests[started.request_id] = started
            self._tokens[started.request_id] = list(started.token_ids)
        failed = {request_id for request_id in _asked(batch) if self._fails(request_id)}
        failed |= self._broken & _asked(batch)
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
        self._broken |= failed
        self._launched = StandInStep(self, good, failed)
        self.open.append(self._launched)
        self.most_open = max(self.most_open, len(self.open))
        return self._launched

    def sample(self, launched: StandInStep, masks: Masks | None = None) -> StandInStep:
        """Chooses a token behind each chunk that wants rows."""
        assert launched is self._launched, "not the step that was launched last"
        self._launched = None
        tokens = [self._sample(c, _allowed(c, masks)) for c in launched.chunks if c.num_rows]
        sentences = dict.fromkeys(launched.failed, "It was made to fail.")
        launched.output = StepOutput(tuple(tokens), sentences)
        return launched

    def _fails(self, request_id: str) -> bool:
        count = self._num_chunks.get(request_id, 0)
        self._num_chunks[request_id] = count + 1
        return (request_id, count) in self._failures

    def _encode(self, task: EncodeTask, failed: set[str]) -> bool:
        source = self.requests[task.request_id].items[task.item]
        assert source.key == task.key
        assert source.features, "an item is to be encoded without features"
        assert task.key not in self.cache, "an item is encoded twice"
        start, stop = task.pieces
        assert 0 <= start < stop <= source.num_pieces
        _, num_done = self.parts.get(task.key, (source, 0))
        assert start == 0 or task.key in self.parts, "a piece's predecessors aren't there"
        is_broken = task.request_id in failed and self._num_chunks[task.request_id] % 2
        if is_broken or num_done < 0:
            self.parts[task.key] = source, -1
            return False
        assert num_done == start, "pieces are encoded out of order"
        self.parts[task.key] = source, stop
        if stop < source.num_pieces:
            return False
        del self.parts[task.key]
        self.cache[task.key] = source.embed_bytes
        self.num_encodes[task.key] = self.num_encodes.get(task.key, 0) + 1
        return True

    def _check_sizes(self, batch: Batch) -> None:
        num_bytes = sum(self.cache.values())
        num_bytes += sum(source.embed_bytes for source, _ in self.parts.values())
        assert num_bytes <= self.config.encoder_cache_bytes, "embeddings exceed their budget"
        num_tokens = sum(len(chunk.token_ids) for chunk in batch.chunks)
        limit = self.config.max_num_batched_tokens
        wide = not self.config.chunked_prefill and len(batch.chunks) == 1
        assert num_tokens <= limit or wide, "the step has too many tokens"
        assert len(self.requests) <= self.config.max_num_seqs
        ids = [chunk.request_id for chunk in batch.chunks]
        assert len(set(ids)) == len(ids)
        assert all(chunk.token_ids for chunk in batch.chunks)
        num_pieces = sum(task.pieces[1] - task.pieces[0] for task in batch.encode)
        if any(chunk.request_id in self._decodes for chunk in batch.chunks):
            most = self.config.max_encode_pieces_per_step
            assert num_pieces <= most, "rows that decode wait for too many pieces"
        # Where log-probabilities of given tokens are wanted, rows come before a prefill's end.
        for chunk in batch.chunks:
            if chunk.num_rows and self.requests[chunk.request_id].sampling.logprobs is None:
                self._decodes.add(chunk.request_id)
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
        assert not chunk.num_rows or chunk.stop >= prompt_len, "sampled inside a prompt"
        given = self.requests[chunk.request_id].sampling.logprobs is not None
        assert chunk.num_rows <= (len(own) if given else 1), "rows that nobody can use"
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

    def _sample(self, chunk: Chunk, allowed: list[int] | None) -> SampledTokens:
        tokens = self._tokens[chunk.request_id]
        first = chunk.stop - chunk.num_rows
        values = [self._slots[self._slot(chunk, i)] for i in range(first, chunk.stop)]
        tokens[chunk.stop :] = [choice_of(values[-1], allowed)]
        behind = tuple(tokens[first + 1 :])
        if self.requests[chunk.request_id].sampling.logprobs is None:
            return SampledTokens(chunk.request_id, behind)
        logprobs = tuple(map(logprobs_of, values, behind))
        return SampledTokens(chunk.request_id, behind, logprobs)

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


class StandInStep:
    """A step that was launched, and, once it is sampled, what came of it.

    Attributes:
        chunks: those that did not fail.
        failed: the requests of the others.
    """

    def __init__(self, runner: StandInRunner, chunks: list[Chunk], failed: set[str]) -> None:
        self._runner = runner
        self.chunks = chunks
        self.failed = failed
        self.output: StepOutput | None = None

    def result(self) -> StepOutput:
        """The oldest comes first."""
        assert self._runner.open.pop(0) is self
        assert self.output is not None, "the step was never sampled"
        return self.output


def _asked(batch: Batch) -> set[str]:
    """Requests of which anything is computed."""
    return {of.request_id for of in (*batch.chunks, *batch.encode)}


def _allowed(chunk: Chunk, masks: Masks | None) -> list[int] | None:
    if masks is None or chunk.request_id not in masks.request_ids:
        return None
    [word] = masks.words[masks.request_ids.index(chunk.request_id)]
    return [token for token in range(VOCAB) if int(word) >> token & 1]


class StandInEngine:
    """The step loop over a stand-in runner, checked after every step.

    Args:
        depth: how many steps may run while the next one is planned, 0 or 1.
        rules: request id → its grammar.

    Attributes:
        updates: all news by request id.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        failures: frozenset[tuple[str, int]] = frozenset(),
        depth: int = 0,
        rules: Mapping[str, Rule] | None = None,
    ) -> None:
        assert depth in (0, 1)
        self.scheduler = Scheduler(config)
        self.runner = StandInRunner(config, failures, overlaps=bool(depth))
        self.runner.on_launch = self._between
        self.grammars = StandInGrammars(rules or {})
        self.core = EngineCore(self.scheduler, self.runner, self.grammars)
        self.batches: list[Batch] = []
        self.updates: dict[str, list[RequestUpdate]] = {}
        self._abort_meanwhile: Sequence[str] = ()

    def add(self, *requests: EngineRequest) -> None:
        """Adds them in order."""
        for request in requests:
            self.core.add(request)

    def abort(self, *request_ids: str) -> None:
        """Aborts them and takes in the updates."""
        self._take(self.core.abort(request_ids))

    def step(self, *, abort_meanwhile: Sequence[str] = ()) -> Batch:
        """One step; ids in ``abort_meanwhile`` are aborted between schedule and process."""
        self._abort_meanwhile = abort_meanwhile
        self._take(self.core.step())
        if self.runner.wrong is not None:
            raise self.runner.wrong
        self.scheduler.check_integrity()
        return self.batches[-1]

    def _between(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.scheduler.check_integrity()
        self.abort(*self._abort_meanwhile)
        self._abort_meanwhile = ()

    def finish(self, max_steps: int = 1000) -> None:
        """Steps until nothing is left, and checks that nothing is held anywhere."""
        for _ in range(max_steps):
            if not self.core.has_work:
                break
            self.step()
        assert not self.core.has_work, f"not done after {max_steps} steps"
        assert not self.runner.open, "a step was never taken in"
        assert not self.grammars.answers, "a grammar was not told to forget all requests"
        self.scheduler.check_integrity()
        assert not self.runner.parts, "pieces are kept for nobody"
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
