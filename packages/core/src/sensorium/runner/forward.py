"""``ForwardPass``: from chunks to tokens, with one decoder, KV cache and set of tables.

    forward   pages into the tables → hidden states (replayed or computed) → the rows wanted
    sample    rows → logits → tokens

All work is enqueued on the device without waiting. Sampled tokens stay there too: a request's next
chunk reads its last token from ``last_tokens``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sensorium.models.decoder import Decoder, DeepRows
from sensorium.runner.batch import EmbeddedRows, FlatBatch, embedded_rows, flatten, wanted_rows
from sensorium.runner.decode_graphs import DecodeGraphs
from sensorium.runner.decode_programs import DecodePrograms
from sensorium.runner.embeddings import Embeddings
from sensorium.runner.prefill_graphs import PrefillGraphs
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.sampler import (
    Choice,
    GivenReports,
    PromptReports,
    choose,
    token_logprobs,
)
from sensorium.runner.step_memory import PageTables, StepMemory
from sensorium.runner.token_counts import TokenCounts
from sensorium.runner.upload import upload, upload_list
from sensorium.types import Chunk, Masks

#: Rows of logits that prompt log-probabilities are computed from at once.
_MAX_PROMPT_ROWS = 256


@dataclass(frozen=True, slots=True)
class HiddenRows:
    """The hidden rows of some chunks, on the device, before sampling.

    Attributes:
        rows: (S, hidden): what is sampled from, a row each; the next ``forward`` may overwrite it.
        sampling: whose rows they are, (S,).
        in_graph: whether the rows are a graph's output, from which another graph can choose tokens.
        given: log-probabilities of given tokens.
        prompts: log-probabilities of prompt tokens, where asked for.
        pooled: request id → (hidden,) float32.
    """

    rows: Tensor | None = None
    sampling: tuple[RunningRequest, ...] = ()
    given: tuple[GivenReports, ...] = ()
    prompts: tuple[PromptReports, ...] = ()
    pooled: dict[str, Tensor] = field(default_factory=dict)
    in_graph: bool = False

    def each(self) -> Iterator[HiddenRows]:
        """One for each request that samples, to sample them one by one."""
        assert self.rows is not None
        for i, of in enumerate(self.sampling):
            yield HiddenRows(self.rows[i : i + 1], (of,))

    def kept(self) -> HiddenRows:
        """The same in memory of its own."""
        return self if self.rows is None else replace(self, rows=self.rows.clone(), in_graph=False)


class ForwardPass:
    """The device's state that a step reads and writes.

    Args:
        kv_cache: (num_layers, 2, num_pages, page_size, num_kv_heads, head_size); its last page is
            spare.
        num_slots: requests that run at once at most.
        max_len: tokens of a request at most.
    """

    def __init__(
        self,
        decoder: Decoder,
        embeddings: Embeddings,
        kv_cache: Tensor,
        *,
        axes: int,
        num_slots: int,
        max_len: int,
    ) -> None:
        self._embeddings = embeddings
        self._num_slots = num_slots
        num_pages, page_size = kv_cache.shape[2:4]
        device = kv_cache.device
        self._memory = StepMemory(
            decoder,
            kv_cache,
            tables=PageTables(num_slots, -(-max_len // page_size), num_pages - 1, device),
            last_tokens=torch.zeros(num_slots + 1, dtype=torch.long, device=device),
            axes=axes,
        )
        self._counts: TokenCounts | None = None
        self._recorded: DecodeGraphs | DecodePrograms | None = None
        self._prefills: PrefillGraphs | None = None

    def record(self, decode: list[int], prefill: list[int]) -> None:
        """Has steps recorded: on CUDA as graphs, captured now; on the CPU as programs, of decoding
        alone.

        Args:
            decode: numbers of sequences, of graphs.
            prefill: numbers of tokens, of graphs.
        """
        if not self._memory.kv_cache.is_cuda:
            self._recorded = DecodePrograms(self._memory)
            return
        pool = torch.cuda.graph_pool_handle()
        self._prefills = PrefillGraphs(self._memory, prefill, pool)
        self._recorded = DecodeGraphs(self._memory, decode, pool)

    def start(self, running: RunningRequest) -> None:
        """Makes its slot ready for a request that starts (again)."""
        memory = self._memory
        memory.tables.forget(running.slot)
        if running.needs_counts:
            if self._counts is None:
                vocab_size = memory.decoder.config.vocab_size
                self._counts = TokenCounts(self._num_slots, vocab_size, memory.kv_cache.device)
            self._counts.start(running)

    def forward(self, chunks: Sequence[Chunk], running: Sequence[RunningRequest]) -> HiddenRows:
        """Computes ``chunks``, whose requests are ``running``."""
        self._memory.tables.update(chunks, running)
        for chunk, of in zip(chunks, running, strict=True):
            of.take(chunk)
            if self._counts is not None and of.needs_counts:
                self._counts.take(of)
        replayed = self._replay(chunks, running)
        if replayed is not None:
            if all(len(chunk.token_ids) == chunk.num_rows == 1 for chunk in chunks):
                in_graph = isinstance(self._recorded, DecodeGraphs)
                return HiddenRows(replayed, tuple(running), in_graph=in_graph)
            return self._wanted(replayed[wanted_rows(chunks)], chunks, running, ())
        flat = flatten(chunks, running, self._memory)
        out = self._through_layers(flat)
        prompts = tuple(self._prompt_reports(out, chunks, running))
        if not any(chunk.num_rows for chunk in chunks):
            return HiddenRows(prompts=prompts)
        return self._wanted(out[flat.wanted], chunks, running, prompts)

    def sample(self, hidden: HiddenRows, masks: Masks | None) -> Choice | None:
        """A token for each row, stored in ``last_tokens`` for the next step; None: no rows."""
        if hidden.rows is None:
            return None
        running = hidden.sampling
        if hidden.in_graph and masks is None and all(of.is_plain for of in running):
            assert isinstance(self._recorded, DecodeGraphs)
            return Choice(running, self._recorded.choose_best(len(running)), None)
        logits = self._memory.decoder.logits(hidden.rows)
        choice = choose(logits, running, self._counts, masks)
        slots = upload_list([of.slot for of in running], torch.long, logits.device)
        self._memory.last_tokens.index_copy_(0, slots, choice.tokens)
        counted = [i for i, of in enumerate(running) if of.needs_counts]
        if counted:
            assert self._counts is not None
            rows = upload_list(counted, torch.long, logits.device)
            self._counts.add([running[i] for i in counted], slots[rows], choice.tokens[rows])
        return choice

    def _wanted(
        self,
        rows: Tensor,
        chunks: Sequence[Chunk],
        running: Sequence[RunningRequest],
        prompts: tuple[PromptReports, ...],
    ) -> HiddenRows:
        """Divides the rows (R, hidden) that chunks want: sampled, given, pooled."""
        sampled: list[int] = []
        sampling: list[RunningRequest] = []
        given: list[GivenReports] = []
        pooled: dict[str, Tensor] = {}
        row = 0
        for chunk, of in zip(chunks, running, strict=True):
            first, row = row, row + chunk.num_rows
            if not chunk.num_rows:
                continue
            if of.request.embeds:
                pooled[chunk.request_id] = rows[row - 1].float()
                continue
            sampled.append(row - 1)
            sampling.append(of)
            if chunk.num_rows > 1:
                ids = chunk.token_ids[1 - chunk.num_rows :]
                given.append(self._given_report(rows[first : row - 1], of, ids))
        if len(sampled) < len(rows):
            rows = rows[upload_list(sampled, torch.long, rows.device)]
        taken = rows if sampled else None
        return HiddenRows(taken, tuple(sampling), tuple(given), prompts, pooled)

    def _given_report(
        self, rows: Tensor, of: RunningRequest, token_ids: tuple[int, ...]
    ) -> GivenReports:
        most = of.request.sampling.logprobs
        assert most is not None, "rows of given tokens are for log-probabilities"
        targets = upload_list(token_ids, torch.long, rows.device)
        found = token_logprobs(self._memory.decoder.logits(rows), targets, most)
        return GivenReports(of.request.request_id, token_ids, most, found)

    def _through_layers(self, flat: FlatBatch) -> Tensor:
        """(N, hidden): the decoder's output, replayed where there is a graph for such a step."""
        hidden, deep = self._embed(flat)
        if self._prefills is not None and deep is None:
            out = self._prefills.run(hidden, flat)
            if out is not None:
                return out
        decoder, cache = self._memory.decoder, self._memory.kv_cache
        computed: Tensor = decoder(hidden, flat.positions, cache, flat.attention, deep)
        return computed

    def _replay(self, chunks: Sequence[Chunk], running: Sequence[RunningRequest]) -> Tensor | None:
        """(N, hidden): the decoder's output of a step that was recorded; None for others."""
        recorded = self._recorded
        if recorded is None or not all(map(recorded.takes, chunks, running)):
            return None
        return recorded.run(chunks, running)

    def _embed(self, flat: FlatBatch) -> tuple[Tensor, DeepRows | None]:
        """Token embeddings with media embeddings in place, and the deeper levels' additions."""
        hidden = self._memory.decoder.embed(flat.token_ids)
        if not flat.embedded:
            return hidden, None
        parts, deep_parts, row = [], [], 0
        for replaced in flat.embedded:
            output = self._embeddings[replaced.key]
            parts.append(_rows_of(output.embeds, replaced))
            rows = flat.embedded_rows[row : row + len(replaced.rows)]
            row += len(replaced.rows)
            if output.deep is not None:
                levels = [_rows_of(level, replaced) for level in output.deep]
                deep_parts.append((rows, torch.stack(levels)))
        hidden.index_copy_(0, flat.embedded_rows, torch.cat(parts))
        return hidden, _deep_rows(deep_parts)

    def _prompt_reports(
        self, out: Tensor, chunks: Sequence[Chunk], running: Sequence[RunningRequest]
    ) -> Iterator[PromptReports]:
        """Of the tokens behind each chunk's, for requests that want their prompt's."""
        row = 0
        for chunk, of in zip(chunks, running, strict=True):
            most = of.request.sampling.prompt_logprobs
            if most is not None:
                places = _reported_places(of, chunk)
                for i in range(0, len(places), _MAX_PROMPT_ROWS):
                    some = places[i : i + _MAX_PROMPT_ROWS]
                    before = np.array(some, dtype=np.int64) - 1 - chunk.start + row
                    ids = np.array([of.request.token_ids[p] for p in some], dtype=np.int64)
                    rows, targets = upload([before, ids], out.device)
                    found = token_logprobs(self._memory.decoder.logits(out[rows]), targets, most)
                    yield PromptReports(of.request.request_id, tuple(some), most, found)
            row += len(chunk.token_ids)


def _reported_places(of: RunningRequest, chunk: Chunk) -> list[int]:
    """Places of the prompt's tokens that the chunk's logits predict; not where media stand."""
    stop = min(chunk.stop + 1, len(of.request.token_ids))
    media: set[int] = set()
    for replaced in embedded_rows(of.request, chunk.start + 1, stop):
        media.update((replaced.rows + chunk.start + 1).tolist())
    return [place for place in range(chunk.start + 1, stop) if place not in media]


def _rows_of(values: Tensor, replaced: EmbeddedRows) -> Tensor:
    """The rows of an embedding that are used: most often a run, which needs no copy."""
    first, last = int(replaced.sources[0]), int(replaced.sources[-1])
    if last - first + 1 == len(replaced.sources):
        return values[first : last + 1]
    [sources] = upload([replaced.sources], values.device)
    return values[sources]


def _deep_rows(parts: Sequence[tuple[Tensor, Tensor]]) -> DeepRows | None:
    if not parts:
        return None
    levels = max(len(values) for _, values in parts)
    padded = [
        torch.cat([values, values.new_zeros(levels - len(values), *values.shape[1:])])
        for _, values in parts
    ]
    return DeepRows(torch.cat([rows for rows, _ in parts]), torch.cat(padded, dim=1))
