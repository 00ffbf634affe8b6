"""From a prepared prompt to the engine's requests: defaults, limits, end-of-text ids.

Refuses what can never run, with the numbers, before the engine hears of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sensorium.errors import LimitError, RequestError
from sensorium.frontend.frontend import PreparedPrompt
from sensorium.output import PooledState, RequestState, bad_word_ids
from sensorium.outputs import RequestMetrics
from sensorium.sampling_params import NEUTRAL, SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.types import EngineItem, EngineRequest, PreparedItem


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request on both sides.

    Attributes:
        requests: for the engine, one for each answer.
        state: takes their updates.
    """

    requests: list[EngineRequest]
    state: RequestState | PooledState


class Admission:
    """The rules of one engine.

    Args:
        generation: the checkpoint's generation config, {} to use none of it.
        config_eos: end-of-text ids that ``config.json`` names.
        embed_row_bytes: kind → bytes of one row of an item's embedding, all levels.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        generation: Mapping[str, Any],
        config_eos: Iterable[int],
        embed_row_bytes: Mapping[str, int],
        max_model_len: int,
        vocab_size: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._embed_row_bytes = embed_row_bytes
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._eos_ids = frozenset(_eos_ids(generation, config_eos, tokenizer))
        self._defaults = _sampling_defaults(generation)
        self.default_sampling = SamplingParams(
            **self._defaults, max_tokens=generation.get("max_new_tokens", 16)
        )

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
        """
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
        priority: int,
    ) -> Admitted:
        """A request to embed; arguments and errors as for ``generation``."""
        sampling = SamplingParams(temperature=0.0, max_tokens=1)
        [request] = self._requests(engine_id, prepared, sampling, metrics.arrival_s, priority)
        state = PooledState(
            request_id=request_id,
            prompt=prepared.text,
            prompt_token_ids=prepared.composition.token_ids,
            metrics=metrics,
            child_id=engine_id,
        )
        return Admitted([replace(request, embeds=True)], state)

    def _requests(
        self,
        request_id: str,
        prepared: PreparedPrompt,
        sampling: SamplingParams | None,
        arrival_s: float,
        priority: int,
    ) -> list[EngineRequest]:
        """One engine request for each of the ``n`` answers."""
        if not isinstance(priority, int):
            raise RequestError(f"priority is {priority!r}; it must be an integer.")
        sampling = (sampling or self.default_sampling).filled(self._defaults)
        composition = prepared.composition
        room = self._max_model_len - len(composition.token_ids)
        self._check_prompt(composition.token_ids, room)
        self._check_ids("logit_bias", sampling.logit_bias or ())
        self._check_ids("stop_token_ids", sampling.stop_token_ids or ())
        own_stops = frozenset(sampling.stop_token_ids or ())
        first = EngineRequest(
            request_id=request_id,
            token_ids=composition.token_ids,
            sampling=sampling,
            max_tokens=min(sampling.max_tokens or room, room),
            stop_ids=own_stops if sampling.ignore_eos else own_stops | self._eos_ids,
            spans=composition.spans,
            items=tuple(self._engine_item(item) for item in prepared.items),
            positions=composition.positions,
            position_delta=composition.position_delta,
            salt=prepared.salt,
            bad_word_ids=bad_word_ids(self._tokenizer, tuple(sampling.bad_words or ())),
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
        )

    def _check_prompt(self, token_ids: tuple[int, ...], room: int) -> None:
        if not token_ids:
            raise RequestError("The prompt is empty; it must have at least one token.")
        if room < 1:
            raise LimitError(
                f"The prompt has {len(token_ids)} tokens; the context holds "
                f"{self._max_model_len}, at least one of them for the answer."
            )
        self._check_ids("The prompt", token_ids)

    def _check_ids(self, what: str, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            if not 0 <= token_id < self._vocab_size:
                raise RequestError(
                    f"{what} has the token id {token_id}; allowed are 0 to {self._vocab_size - 1}."
                )


def _nth_answer(first: EngineRequest, i: int) -> EngineRequest:
    """Independent sequences: with a seed, each answer has its own, derived from it."""
    seed = first.sampling.seed
    sampling = first.sampling if seed is None else replace(first.sampling, seed=seed + i)
    return replace(first, request_id=f"{first.request_id}#{i}", sampling=sampling)


def _eos_ids(
    generation: Mapping[str, Any], config_eos: Iterable[int], tokenizer: Tokenizer
) -> list[int]:
    """End-of-text ids: the generation config's, else ``config.json``'s, else the tokenizer's."""
    value = generation.get("eos_token_id")
    if value is not None:
        return [int(v) for v in value] if isinstance(value, list) else [int(value)]
    ids = list(config_eos)
    if not ids and tokenizer.eos_token_id is not None:
        ids = [tokenizer.eos_token_id]
    return ids


def _sampling_defaults(generation: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {name: generation[name] for name in NEUTRAL if generation.get(name) is not None}
    if generation.get("do_sample") is False:
        defaults["temperature"] = 0.0
    return defaults
