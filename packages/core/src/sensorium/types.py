"""The nouns that flow through the engine, each a frozen dataclass.

    media values → MediaItem → (Loaded, MediaPlan, Features) = PreparedItem
    prompt + PreparedItems → Composition → EngineRequest
    EngineRequest → Batch (of Chunks) → StepOutput → RequestOutput

Nothing here imports torch at run time, so that the scheduler can be read, tested and
replaced without it. Ranges are half-open: (start, stop) covers start … stop-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sensorium.errors import EngineError, PluginError
from sensorium.pooling_params import PoolingParams
from sensorium.sampling_params import SamplingParams

if TYPE_CHECKING:
    import torch

#: In a chunk: a token that a running step samples, whose value only the runner has so far.
PENDING = -1
#: Named tensors for one encoder, of any dtype; uint8 where that is lossless.
Features = Mapping[str, "torch.Tensor"]
#: In an item's features, in place of encoders' names: the rows, as {"rows": (tokens, width)}, of an
#: item that came as embeddings. No encoder's name begins with this sign.
PRECOMPUTED = "=precomputed"
Positions = npt.NDArray[np.int64]

# --- media, before the engine ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A URL as the caller wrote it; the fetch step turns it into a ``BytesSource``."""

    url: str


@dataclass(frozen=True, slots=True)
class BytesSource:
    """An encoded file's bytes, and the media type its sender claimed (never trusted)."""

    data: bytes
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class ValueSource:
    """A decoded value as the caller holds it (an array, a tensor, a library's object)."""

    value: Any


Source = UrlSource | BytesSource | ValueSource


@dataclass(frozen=True, slots=True)
class GivenEmbeds:
    """One item's pre-computed embeddings as the caller gave them, nothing checked yet.

    Attributes:
        rows: a tensor or array (tokens, width), or a serialised one in base64; None if only a
            uuid was given.
        fields: what came beside them, by name: tensors, arrays, numbers in lists, or base64.
    """

    rows: Any
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One item of one kind as the caller gave it, before anything was read.

    Attributes:
        kind: the kind's name, the key in ``multi_modal_data``.
        index: which item of its kind in the request, from 0.
        sources: what it is made of, in order; empty if only a uuid was given.
        uuid: the caller's stable name for its content.
        embeds: pre-computed embeddings instead of sources.
    """

    kind: str
    index: int
    sources: tuple[Source, ...] = ()
    uuid: str | None = None
    embeds: GivenEmbeds | None = None

    @property
    def has_data(self) -> bool:
        """Whether anything but a uuid was given."""
        if self.embeds is not None:
            return self.embeds.rows is not None
        return bool(self.sources)

    @property
    def label(self) -> str:
        """How error messages name it."""
        return f"{self.kind} {self.index}"


#: A plain value, or several: what a fact about an item may be.
Fact = str | int | float | bool | None | tuple[str | int | float | bool | None, ...]


@dataclass(frozen=True, slots=True)
class MediaShape:
    """All that a plan may depend on of an item's content; hashable.

    Attributes:
        size: its extents, in the order of ``MediaKind.size_names``.
        facts: what else the kind tells of an item (a sampling rate, a duration, times), by the
            names in ``MediaKind.fact_names``: plain values and tuples of them.
    """

    size: tuple[int, ...]
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.size, frozenset(self.facts.items())))


@dataclass(frozen=True, slots=True)
class Probe:
    """What a header says, before decoding.

    Attributes:
        shape: the item's, as ``Loaded`` will have it. Facts that only decoding tells may be
            missing here; the size may not differ.
        decoded_bytes: how much memory decoding will take.
    """

    shape: MediaShape
    decoded_bytes: int


@dataclass(frozen=True, slots=True)
class DerivedItem:
    """An item of another kind found inside one that was loaded.

    Its key is made of the parent's key, its kind and its name.
    """

    kind: str
    name: str
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class Loaded:
    """A decoded item.

    Attributes:
        value: as its kind defines it; or a ``sensorium.plugins.MediaReader``, an opened item from
            which ``MediaAdapter.process`` pulls piece by piece and which core closes.
        shape: what its plan is made from.
        derived: items of other kinds found inside it.
    """

    value: Any
    shape: MediaShape
    derived: tuple[DerivedItem, ...] = ()


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """An item's tokens and layout in the prompt, known from its shape alone.

    Which item of the prompt it is (``PreparedItem.index``) isn't known to it, and so is no part of
    its ids: ``ModelFamily.compose`` adds what depends on the index.

    Attributes:
        num_tokens: embedding rows that its encoders return together (in the order in which
            the adapter names them, concatenated).
        token_ids: the tokens that stand for it in the prompt, placeholder ids included.
        is_embed: one byte a token, 1 where an embedding row replaces the token's own; None:
            everywhere. Its ones number ``num_tokens``.
        grid: the item's extent in the units of its position scheme, () if it has none.
        facts: whatever else the family's ``compose`` needs.
        num_pieces: pieces that its encoders make one by one (``Encoder.encode_piece``), of one row
            at least; 1: they make it whole.

    Raises:
        PluginError: ``num_tokens``, ``token_ids`` and ``is_embed`` that don't fit each other.
    """

    num_tokens: int
    token_ids: tuple[int, ...]
    is_embed: bytes | None = None
    grid: tuple[int, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    num_pieces: int = 1

    def __post_init__(self) -> None:
        if self.is_embed is not None and len(self.is_embed) != len(self.token_ids):
            raise PluginError(
                f"a plan has {len(self.token_ids)} token_ids and a mask of {len(self.is_embed)} "
                "bytes; the mask has one a token."
            )
        ones = len(self.token_ids) if self.is_embed is None else self.is_embed.count(1)
        if ones != self.num_tokens:
            where = "token_ids has" if self.is_embed is None else "the mask's ones are"
            raise PluginError(f"a plan has num_tokens = {self.num_tokens}, and {where} {ones}.")


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """An item ready for the engine.

    Attributes:
        kind, index: as in ``MediaItem``; a derived item has its parent's index.
        key: 32 bytes that name its content and every option that shapes its embeddings.
        plan: its tokens and layout.
        features: encoder name → that encoder's input; or ``PRECOMPUTED`` → the rows themselves;
            empty if only the embedding's key is known.
        parent: the key of the item it was derived from.
        uuid: the caller's name for it, for messages; a derived item has its parent's.
    """

    kind: str
    index: int
    key: bytes
    plan: MediaPlan
    features: Mapping[str, Features]
    parent: bytes | None = None
    uuid: str | None = None


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
