"""What a caller gets back. Names of fields are those that users of vLLM know."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sensorium.errors import SensoriumError

if TYPE_CHECKING:
    from torch import Tensor


class RequestOutputKind(enum.Enum):
    """What each output of a stream holds; the values are those of vLLM.

    Attributes:
        CUMULATIVE: the whole answer so far.
        DELTA: what is new since the output before it.
        FINAL_ONLY: the whole answer; there is one output, at the end.
    """

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token's log-probability at one position; rank 1 is the most probable.

    ``decoded_token`` is the token's text within a longer text (its leading space included); U+FFFD
    stands for a part of a character.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer.

    Attributes:
        index: which of the request's ``n`` answers.
        text: what the answer adds to the prompt's text, stop string cut off unless asked for.
        token_ids: the answer's tokens, the one that ended it included.
        cumulative_logprob: sum over the chosen tokens, also in a delta; None unless logprobs were
            asked for.
        logprobs: for each of ``token_ids`` a mapping from token id to its ``Logprob``.
        finish_reason: "stop", "length", "abort", "error"; None while it runs.
        stop_reason: the stop string or stop token id that ended it; None for end of text.
    """

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: Sequence[Mapping[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        """Whether this answer is complete."""
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True)
class MediaStage:
    """One piece of the work of preparing one item.

    Attributes:
        kind, index: the item.
        stage: "fetch", "decode" or "process".
        begun_s, ended_s: monotonic seconds.
    """

    kind: str
    index: int
    stage: str
    begun_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Times (monotonic seconds) and counts of one request.

    Attributes:
        arrival_s: when the caller handed it over.
        prepared_s: when its media and tokens were ready.
        first_scheduled_s: when it first ran.
        first_token_s, finished_s: of its first answer's first token, and of its end.
        media_stages: what its media took, as far as it was done for this request.
        num_media_items: items in it, derived ones included.
        num_media_tokens: kind → rows of its items' embeddings in the prompt.
        num_processor_hits: items found in the processor cache.
        num_encoder_hits: items found encoded.
        num_encoded_items: items encoded for it. An item whose tokens the prefix cache held was
            needed neither found nor encoded, and is in neither count.
        num_prompt_tokens, num_cached_tokens: of the prompt, and those of them that the prefix
            cache held.
        num_preemptions: how often it lost its pages.
    """

    arrival_s: float = 0.0
    prepared_s: float | None = None
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None
    media_stages: tuple[MediaStage, ...] = ()
    num_media_items: int = 0
    num_media_tokens: Mapping[str, int] = field(default_factory=dict)
    num_processor_hits: int = 0
    num_encoder_hits: int = 0
    num_encoded_items: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0

    @property
    def processor_hit_rate(self) -> float | None:
        """Share of its items found in the processor cache; None if it has none."""
        return _share(self.num_processor_hits, self.num_media_items)

    @property
    def encoder_hit_rate(self) -> float | None:
        """Share of the embeddings it needed that were there; None if it needed none."""
        return _share(self.num_encoder_hits, self.num_encoder_hits + self.num_encoded_items)

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of its prompt's tokens found in the prefix cache."""
        return _share(self.num_cached_tokens, self.num_prompt_tokens)


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A request's state.

    Cumulative, so that the last output holds everything, unless ``SamplingParams.output_kind`` is
    ``DELTA``: then text, tokens and log-probabilities are those since the output before.

    Attributes:
        prompt: the prompt's text, if it was given as text.
        prompt_token_ids: with media expanded, as the model saw it.
        outputs: the ``n`` answers; of deltas, those that have something new (a request's only
            answer is always there).
        prompt_logprobs: for each place of the prompt a mapping from token id to its ``Logprob``;
            None at the first place and where media stand. None unless asked for, and in all deltas
            but the first one behind the prompt.
        num_cached_tokens: prompt tokens found in the prefix cache.
        error: why it failed; only where the caller asked not to raise.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    finished: bool
    num_cached_tokens: int = 0
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    error: SensoriumError | None = None
    prompt_logprobs: tuple[Mapping[int, Logprob] | None, ...] | None = None


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """A prompt as one vector, made as ``PoolingParams`` say.

    Attributes:
        values: (hidden,) numbers.
    """

    values: tuple[float, ...]

    @property
    def data(self) -> Tensor:
        """(hidden,) float32."""
        import torch

        return torch.tensor(self.values, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """A prompt as one vector, of length 1 unless ``PoolingParams`` say otherwise.

    Attributes:
        embedding: (hidden,) numbers.
    """

    embedding: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PoolingRequestOutput:
    """What ``encode`` returns of a prompt; attributes as those of ``RequestOutput``."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: PoolingOutput
    finished: bool
    num_cached_tokens: int = 0
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    error: SensoriumError | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """What ``embed`` returns of a prompt; attributes as those of ``RequestOutput``."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: EmbeddingOutput
    finished: bool
    num_cached_tokens: int = 0
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    error: SensoriumError | None = None

    @classmethod
    def of(cls, pooled: PoolingRequestOutput) -> EmbeddingRequestOutput:
        """The same by another name."""
        return cls(
            request_id=pooled.request_id,
            prompt=pooled.prompt,
            prompt_token_ids=pooled.prompt_token_ids,
            outputs=EmbeddingOutput(pooled.outputs.values),
            finished=pooled.finished,
            num_cached_tokens=pooled.num_cached_tokens,
            metrics=pooled.metrics,
            error=pooled.error,
        )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
