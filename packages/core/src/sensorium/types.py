"""The nouns that flow through the engine, each a frozen dataclass.

    media values → MediaItem → (Loaded, MediaPlan, Features) = PreparedItem    (``items``)
    prompt + PreparedItems → Composition → EngineRequest
    EngineRequest → Batch (of Chunks) → StepOutput → RequestOutput

Nothing here imports torch at run time, so that the scheduler can be read, tested and
replaced without it. Ranges are half-open: (start, stop) covers start … stop-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sensorium.errors import EngineError
from sensorium.items import (
    PRECOMPUTED,
    BytesSource,
    DerivedItem,
    Fact,
    Features,
    GivenEmbeds,
    Loaded,
    MediaItem,
    MediaPlan,
    MediaShape,
    PreparedItem,
    Probe,
    Source,
    UrlSource,
    ValueSource,
)
from sensorium.pooling_params import PoolingParams
from sensorium.sampling_params import SamplingParams

__all__ = [
    "PENDING",
    "PRECOMPUTED",
    "Batch",
    "BytesSource",
    "Chunk",
    "Composition",
    "DerivedItem",
    "EncodeTask",
    "EngineItem",
    "EngineRequest",
    "ExecutorInfo",
    "Fact",
    "Features",
    "GivenEmbeds",
    "KVShape",
    "Loaded",
    "Masks",
    "MediaItem",
    "MediaPlan",
    "MediaShape",
    "MediaSpan",
    "Pooled",
    "Positions",
    "PreparedItem",
    "Probe",
    "PromptLogprobs",
    "RequestUpdate",
    "SampledTokens",
    "Source",
    "StepOutput",
    "TokenLogprobs",
    "UrlSource",
    "ValueSource",
]

#: In a chunk: a token that a running step samples, whose value only the runner has so far.
PENDING = -1
Positions = npt.NDArray[np.int64]

# --- the request, as the engine sees it -----------------------------------------------


@dataclass(frozen=True, slots=True)
class MediaSpan:
    """Where (a part of) an item stands in the prompt.

                 offset            offset + length
        … text   │ s  e  e  e  e  t │  text …        e: is_embed, from the item's rows
                      item_slice                       item_slice[0] … item_slice[1]-1

    An item may have several spans; spans may interleave or overlap where their masks are
    disjoint.

    Attributes:
        item: index into the request's items.
        item_slice: the rows of the item's embedding used here, half-open.
        offset, length: tokens covered.
        is_embed: one byte a token, None: all ones.
        atomic: must be prefilled in one chunk.
        non_causal: its tokens see each other in both directions (implies atomic).
    """

    item: int
    item_slice: tuple[int, int]
    offset: int
    length: int
    is_embed: bytes | None = None
    atomic: bool = False
    non_causal: bool = False

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Composition:
    """A prompt with its media in place: what ``ModelFamily.compose`` returns.

    Attributes:
        token_ids: the whole prompt.
        spans: where items stand, by offset.
        positions: (axes, len(token_ids)); None: 0, 1, 2 … on one axis.
        position_delta: a generated token at index i has position i + delta on every axis.
    """

    token_ids: tuple[int, ...]
    spans: tuple[MediaSpan, ...] = ()
    positions: Positions | None = None
    position_delta: int = 0


@dataclass(frozen=True, slots=True)
class EngineItem:
    """An item as scheduler and runner see it.

    Attributes:
        key: names the embedding in the encoder cache.
        kind: chooses the adapter, and with it the encoders.
        num_tokens: rows of its embedding.
        embed_bytes: what the embedding costs in the encoder cache, all levels included.
        features: as in ``PreparedItem``; in host memory until the request ends.
        index, uuid: its name in messages.
        num_pieces: pieces that it is encoded in, one behind another; 1: at once.
    """

    key: bytes
    kind: str
    num_tokens: int
    embed_bytes: int
    features: Mapping[str, Features]
    index: int = 0
    uuid: str | None = None
    num_pieces: int = 1


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One sequence to generate; ``n`` answers are n of these.

    Attributes:
        sampling: with every field filled.
        max_tokens: new tokens at most, context already taken into account.
        stop_ids: token ids that end it (end-of-text ids included unless ignored).
        eos_ids: the model's end-of-text ids; like ``stop_ids``, they can't be chosen before
            ``sampling.min_tokens``.
        salt: keeps this request's cache entries apart from those of other salts.
        bad_word_ids: token sequences that may not be completed.
        arrival_s: monotonic time of admission.
        priority: lower ones go first; equal ones by arrival.
        pooling: how to make the prompt's vector, where nothing is generated; else None.
    """

    request_id: str
    token_ids: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    eos_ids: frozenset[int] = frozenset()
    spans: tuple[MediaSpan, ...] = ()
    items: tuple[EngineItem, ...] = ()
    positions: Positions | None = None
    position_delta: int = 0
    salt: str = ""
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    arrival_s: float = 0.0
    priority: int = 0
    pooling: PoolingParams | None = None

    @property
    def embeds(self) -> bool:
        """Whether the prompt's vector is wanted and no answer."""
        return self.pooling is not None


# --- one step -------------------------------------------------------------------------

# Objects made for each sequence in each step are named tuples: made in a third of the time of a
# frozen dataclass.


class Chunk(NamedTuple):
    """A run of one sequence's tokens to compute in this step.

        tokens     0 ───────────── start ────────── stop ─── …
                   │ in the cache  │  this chunk    │ later

    Attributes:
        token_ids: the tokens start … stop-1; the last one may be ``PENDING``.
        pages: the sequence's page table, covering at least ``stop`` tokens.
        num_rows: output rows wanted: those of the last so many of its tokens. The row of a token
            predicts the next one. The token after the last row is sampled; the tokens after the
            others are given, in this chunk, and their log-probabilities are wanted. Of a request
            to embed, the last row itself is wanted.
    """

    request_id: str
    start: int
    token_ids: tuple[int, ...]
    pages: tuple[int, ...]
    num_rows: int

    @property
    def stop(self) -> int:
        """The position behind its last token."""
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """An item, or a run of its pieces, to encode before this step's forward.

    Attributes:
        pieces: the half-open run; the steps before have asked for those that come before it.
    """

    request_id: str
    item: int
    key: bytes
    pieces: tuple[int, int] = (0, 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """What the scheduler asks the runner to do in one step.

    Attributes:
        started: requests that run for the first time (or again after preemption); the
            runner keeps their sampling state and features until they are in ``ended``.
        encode: items whose embeddings, or pieces of them, must be made, in order, each key once;
            their requests need not have a chunk.
        chunks: what to compute; chunks that decode one token and prefill chunks mix.
        evict: keys of embeddings to drop before encoding.
        ended: requests the runner may forget (finished, aborted or preempted).
    """

    started: tuple[EngineRequest, ...] = ()
    encode: tuple[EncodeTask, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    evict: tuple[bytes, ...] = ()
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one position: the chosen token's, and those of the best ones.

    Attributes:
        logprob, rank: of the chosen token; rank 1 is the most probable.
        top_ids, top_logprobs: the most probable tokens, best first.
    """

    logprob: float
    rank: int
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


#: Places in a prompt, and the log-probabilities of the tokens there.
PromptLogprobs = tuple[tuple[int, TokenLogprobs], ...]
#: A prompt as one vector, in plain numbers, which cross to another process as they are.
Pooled = tuple[float, ...]


class SampledTokens(NamedTuple):
    """The tokens that follow the rows of one chunk, in order.

    Attributes:
        token_ids: one a row: the given ones, and the sampled one last.
        logprobs: one a token, where the request asks for them; else ().
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


class Masks(NamedTuple):
    """Which tokens may be sampled next, for some of a step's requests.

    Attributes:
        request_ids: the masks' requests; every other request may get any token.
        words: (len(request_ids), ceil(vocab_size / 32)) int32: bit ``i % 32`` of word ``i // 32``,
            the least significant bit first, is 1 where token i is allowed (llguidance's layout).
    """

    request_ids: tuple[str, ...]
    words: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The result of one step: plain data, which may come from another process.

    Attributes:
        tokens: one entry for each chunk with ``num_rows`` that did not fail, of requests that
            generate.
        failed: request id → a sentence, for requests whose own input made the step fail; a
            ``Failure`` where it is more than an ``EngineError``.
        prompt_logprobs: request id → (place in the prompt, of the token there), as asked for.
        pooled: request id → (hidden,) numbers, for chunks with ``num_rows`` of requests to embed.
    """

    tokens: tuple[SampledTokens, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    prompt_logprobs: Mapping[str, PromptLogprobs] = field(default_factory=dict)
    pooled: Mapping[str, Pooled] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExecutorInfo:
    """The properties of an executor.

    Attributes:
        device, dtype: what it computes on and in, as torch prints them (the dtype without
            ``torch.``).
        overlaps: whether it works on while the host plans the next step.
        vocab_size: width of the logits.
        max_model_len: tokens of one sequence at most.
        num_pages: pages of the KV cache, numbered from 0.
        embed_row_bytes: kind → bytes of one row of an item's embedding, all levels.
        attention: the backends that were chosen, in words.
    """

    device: str
    dtype: str
    overlaps: bool
    vocab_size: int
    max_model_len: int
    num_pages: int
    embed_row_bytes: Mapping[str, int] = field(default_factory=dict)
    attention: str = ""


class RequestUpdate(NamedTuple):
    """The engine's report to the frontend on one sequence after a step.

    Attributes:
        new_token_ids, logprobs: since the last update; logprobs only if asked for.
        finish_reason: "stop", "length", "abort", "error" or None while it runs.
        stop_id: the token that ended it, if one did.
        error, error_class: with finish_reason "error": a sentence, and the name of the class in
            ``sensorium.errors`` by which the caller gets it.
        prompt_logprobs: of the prompt's tokens, since the last update; only if asked for.
        pooled: the prompt's vector, of a request to embed.
        lost_item: with an error: an item that came by its uuid alone has left the caches since.
        num_cached_tokens: prompt tokens found in the prefix cache.
        num_encoded_items, num_encoder_hits: items encoded for it, and found encoded.
        num_preemptions: how often it lost its pages so far.
        first_scheduled_s: monotonic time it first ran.
    """

    request_id: str
    new_token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: PromptLogprobs = ()
    pooled: Pooled | None = None
    finish_reason: str | None = None
    stop_id: int | None = None
    error: str | None = None
    error_class: str = EngineError.__name__
    lost_item: bool = False
    num_cached_tokens: int = 0
    num_encoded_items: int = 0
    num_encoder_hits: int = 0
    num_preemptions: int = 0
    first_scheduled_s: float | None = None


# --- what the decoder is --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one page holds, as the runner allocates it and the scheduler counts it."""

    num_layers: int
    num_kv_heads: int
    head_size: int
    page_size: int
    dtype_bytes: int

    @property
    def page_bytes(self) -> int:
        """Keys and values of one page, all layers."""
        elements = self.num_layers * self.num_kv_heads * self.head_size * self.page_size
        return 2 * elements * self.dtype_bytes
