"""From a prepared prompt to the engine's requests: defaults, limits, end-of-text ids.

Refuses what can never run, with the numbers, before the engine hears of it. Every token id of a
request is checked against the vocabulary here, since on the device ids index into tables unchecked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sensorium.engine.generation_config import GenerationConfig
from sensorium.errors import LimitError, PluginError, RequestError
from sensorium.frontend.frontend import PreparedPrompt, truncated
from sensorium.output import PooledState, RequestState
from sensorium.outputs import RequestMetrics
from sensorium.pooling_params import PoolingParams
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.types import PRECOMPUTED, EngineItem, EngineRequest, PreparedItem


@dataclass(frozen=True, slots=True)
class Admitted:
    """One request, as the engine and the frontend each see it.

    Attributes:
        requests: for the engine, one for each answer.
        state: takes their updates.
    """

    requests: list[EngineRequest]
    state: RequestState | PooledState


class Admission:
    """The rules of one engine.

    Args:
        generation: what the checkpoint's files say.
        embed_row_bytes: kind → bytes of one row of an item's embedding, all levels.
        max_logprobs: log-probabilities at one place at most; -1: of the whole vocabulary.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        generation: GenerationConfig,
        embed_row_bytes: Mapping[str, int],
        max_model_len: int,
        vocab_size: int,
        max_logprobs: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._embed_row_bytes = embed_row_bytes
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._max_logprobs = vocab_size if max_logprobs < 0 else max_logprobs
        self._generation = generation
        self.default_sampling = generation.sampling
        self.max_new_tokens = generation.max_new_tokens

    def generation(
        self,
        request_id: str,
        engine_id: str,
        prepared: PreparedPrompt,
        metrics: RequestMetrics,
        *,
        sampling: SamplingParams | None,
        priority: int,
    ) -> Admitted:
        """A request to generate.

        Args:
            request_id, engine_id: the caller's name for it, and the engine's.
            priority: lower ones go first.

        Raises:
            LimitError: the prompt leaves no room for an answer.
            RequestError: token ids that the vocabulary doesn't have, or a priority that is no
                integer.
            PluginError: such an id is in an item's plan.
        """
        sampling = sampling or self.default_sampling
        room = max(1, self._max_model_len - (sampling.max_tokens or 1))
        prepared = truncated(prepared, sampling, room)
        metrics = replace(metrics, num_prompt_tokens=len(prepared.composition.token_ids))
        requests = self._requests(engine_id, prepared, sampling, metrics.arrival_s, priority)
        state = RequestState(
            request_id=request_id,
            prompt=prepared.text,
            prompt_token_ids=prepared.composition.token_ids,
            sampling=requests[0].sampling,
            tokenizer=self._tokenizer,
            metrics=metrics,
            child_ids=[request.request_id for request in requests],
        )
        return Admitted(requests, state)

    def embedding(
        self,
        request_id: str,
        engine_id: str,
        prepared: PreparedPrompt,
        metrics: RequestMetrics,
        *,
        pooling: PoolingParams,
        priority: int,
    ) -> Admitted:
        """A request to embed; other arguments and errors as for ``generation``.

        Args:
            pooling: with every field filled.
        """
        sampling = SamplingParams(temperature=0.0, max_tokens=1)
        [request] = self._requests(engine_id, prepared, sampling, metrics.arrival_s, priority)
        state = PooledState(
            request_id=request_id,
            prompt=prepared.text,
            prompt_token_ids=prepared.composition.token_ids,
            metrics=metrics,
            child_id=engine_id,
            normalizes=bool(pooling.normalize),
        )
        return Admitted([replace(request, pooling=pooling)], state)

    def _requests(
        self,
        request_id: str,
        prepared: PreparedPrompt,
        sampling: SamplingParams,
        arrival_s: float,
        priority: int,
    ) -> list[EngineRequest]:
        """One engine request for each of the ``n`` answers."""
        if not isinstance(priority, int):
            raise RequestError(f"priority is {priority!r}; it must be an integer.")
        composition = prepared.composition
        self._check_prompt(prepared)
        sampling = self._complete(sampling)
        first = EngineRequest(
            request_id=request_id,
            token_ids=composition.token_ids,
            sampling=sampling,
            max_tokens=self._max_tokens(len(composition.token_ids), sampling.max_tokens),
            stop_ids=self._stop_ids(sampling),
            eos_ids=self._generation.eos_ids,
            spans=composition.spans,
            items=tuple(self._engine_item(item) for item in prepared.items),
            positions=composition.positions,
            position_delta=composition.position_delta,
            salt=prepared.salt,
            bad_word_ids=self._bad_word_ids(sampling),
            arrival_s=arrival_s,
            priority=priority,
        )
        if sampling.n == 1:
            return [first]
        return [_nth_answer(first, i) for i in range(sampling.n)]

    def _engine_item(self, item: PreparedItem) -> EngineItem:
        return EngineItem(
            key=item.key,
            kind=item.kind,
            num_tokens=item.plan.num_tokens,
            embed_bytes=item.plan.num_tokens * self._embed_row_bytes[item.kind],
            features=item.features,
            index=item.index,
            uuid=item.uuid,
            num_pieces=1 if PRECOMPUTED in item.features else item.plan.num_pieces,
        )

    def _complete(self, sampling: SamplingParams) -> SamplingParams:
        """The parameters with every field filled, checked against the engine's limits."""
        sampling = sampling.filled(self._generation.defaults)
        for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
            self._check_ids(name, getattr(sampling, name) or ())
        return replace(
            sampling,
            logprobs=self._num_logprobs("logprobs", sampling.logprobs),
            prompt_logprobs=self._num_logprobs("prompt_logprobs", sampling.prompt_logprobs),
        )

    def _num_logprobs(self, name: str, wanted: int | None) -> int | None:
        """How many log-probabilities at each place."""
        count = self._vocab_size if wanted == -1 else wanted
        if count is not None and count > self._max_logprobs:
            raise RequestError(
                f"{name} is {wanted}; this engine reports {self._max_logprobs} at most (its "
                "option max_logprobs)."
            )
        return count

    def _stop_ids(self, sampling: SamplingParams) -> frozenset[int]:
        own = frozenset(sampling.stop_token_ids or ())
        return own if sampling.ignore_eos else own | self._generation.eos_ids

    def _bad_word_ids(self, sampling: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """The parameters without bad words that the model's vocabulary can't write."""
        words = bad_word_ids(self._tokenizer, tuple(sampling.bad_words or ()))
        return tuple(ids for ids in words if max(ids) < self._vocab_size)

    def _max_tokens(self, num_prompt: int, wanted: int | None) -> int:
        """As many new tokens as the request wants and the context holds.

        The last token is sampled and never computed, so a prompt that fills the context can still
        be scored, or answered by one token, if the request asks for no more.

        Raises:
            LimitError: the context holds less than the prompt and a token.
        """
        room = self._max_model_len - num_prompt
        if room >= 1:
            return room if wanted is None else min(wanted, room)
        if room == 0 and wanted is not None and wanted <= 1:
            return wanted
        reason = "."
        if room == 0:
            reason = ", at least one of them for the answer, unless max_tokens is 0 or 1."
        raise LimitError(
            f"The prompt has {num_prompt} tokens; the context holds {self._max_model_len}{reason}"
        )

    def _check_prompt(self, prepared: PreparedPrompt) -> None:
        composition = prepared.composition
        if not composition.token_ids:
            raise RequestError("The prompt is empty; it must have at least one token.")
        for span in composition.spans:
            if self._lacks(ids := composition.token_ids[span.offset : span.end]):
                item = prepared.items[span.item]
                raise PluginError(
                    f"The plan of {item.kind} {item.index} has the token id {self._strange(ids)}; "
                    f"allowed are 0 to {self._vocab_size - 1}."
                )
        self._check_ids("The prompt", composition.token_ids)

    def _check_ids(self, what: str, token_ids: Collection[int]) -> None:
        if self._lacks(token_ids):
            raise RequestError(
                f"{what} has the token id {self._strange(token_ids)}; allowed are 0 to "
                f"{self._vocab_size - 1}."
            )

    def _lacks(self, token_ids: Collection[int]) -> bool:
        """Whether any of the ids isn't in the model's vocabulary."""
        return bool(token_ids) and not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size

    def _strange(self, token_ids: Collection[int]) -> int:
        """The first id that isn't in the model's vocabulary."""
        return next(i for i in token_ids if not 0 <= i < self._vocab_size)


def _nth_answer(first: EngineRequest, i: int) -> EngineRequest:
    """Independent sequences: with a seed, each answer has its own, derived from it."""
    seed = first.sampling.seed
    sampling = first.sampling if seed is None else replace(first.sampling, seed=_nth_seed(seed, i))
    return replace(first, request_id=f"{first.request_id}#{i}", sampling=sampling)


def _nth_seed(seed: int, i: int) -> int:
    """The i-th seed from ``seed`` on, without -1, which stands for none; the last is followed by
    the first."""
    nth = seed + i + (seed < -1 <= seed + i)
    return nth - 2**64 if nth >= 2**63 else nth


def bad_word_ids(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The token sequences of each word: at a text's start, behind a space and behind other text.

    As in vLLM, a space in front of a word is no part of it, and only sequences as the tokenizer
    makes them count: a word that begins inside a longer token, or that is put together from other
    tokens, is written all the same. The first would need the text, which does not exist before the
    token is chosen.
    """
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        bare = word.lstrip(" ") or word
        for ids in (
            tokenizer.encode(bare),
            tokenizer.encode(" " + bare),
            tokenizer.encode(bare, continues=True),
        ):
            if ids:
                found[tuple(ids)] = None
    return tuple(found)
