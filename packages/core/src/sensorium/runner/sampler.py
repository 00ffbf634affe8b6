"""From logits to tokens.

Row by row, in this order: bans (stop tokens before ``min_tokens``, bad words), bias,
repetition, presence and frequency penalties; then greedy, or temperature, top-k, top-p, min-p
and a draw. Log-probabilities are those of the logits as the model gave them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sensorium.runner.request_state import RunningRequest
from sensorium.sampling_params import SamplingParams
from sensorium.types import SampledToken, TokenLogprobs

_NEVER = float("-inf")


def sample(logits: Tensor, requests: Sequence[RunningRequest]) -> list[SampledToken]:
    """One token for each row.

    Args:
        logits: (len(requests), vocab_size) float32.
    """
    plain = [i for i, request in enumerate(requests) if _is_plain(request)]
    best = logits[plain].argmax(-1).tolist() if plain else []
    chosen = dict(zip(plain, best, strict=True))
    tokens = []
    for i, running in enumerate(requests):
        token_id = chosen[i] if i in chosen else _choose(logits[i].clone(), running)
        count = running.request.sampling.logprobs
        logprobs = None if count is None else token_logprobs(logits[i], token_id, count)
        tokens.append(SampledToken(running.request.request_id, token_id, logprobs))
    return tokens


def token_logprobs(logits: Tensor, token_id: int, count: int) -> TokenLogprobs:
    """The chosen token's log-probability and rank, and the ``count`` best ones."""
    logprobs = logits.log_softmax(-1)
    own = logprobs[token_id]
    top = logprobs.topk(count) if count else None
    return TokenLogprobs(
        logprob=float(own),
        rank=int((logprobs > own).sum()) + 1,
        top_ids=tuple(top.indices.tolist()) if top else (),
        top_logprobs=tuple(top.values.tolist()) if top else (),
    )


def _is_plain(running: RunningRequest) -> bool:
    """Whether the best logit is the answer, with nothing to adjust."""
    params = running.request.sampling
    adjusts = (
        params.repetition_penalty != 1.0
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or running.request.bad_word_ids
        or len(running.generated) < params.min_tokens
    )
    return params.greedy and not adjusts


def _choose(logits: Tensor, running: RunningRequest) -> int:
    params = running.request.sampling
    _adjust(logits, running)
    if params.greedy:
        return int(logits.argmax())
    probabilities = distribution(logits, params)
    generator = torch.Generator(logits.device).manual_seed(running.step_seed())
    # The largest p / Exponential(1) falls on token i with probability p_i (exponential races).
    noise = torch.empty_like(probabilities).exponential_(generator=generator)
    return int((probabilities / noise).argmax())


def distribution(logits: Tensor, params: SamplingParams) -> Tensor:
    """(vocab_size,) float32: the probabilities that a token is drawn from.

    top-k (Fan et al. 2018), then top-p over what is left (Holtzman et al. 2020), then min-p
    (Nguyen et al. 2024), each on the distribution at ``params.temperature``.
    """
    assert params.temperature is not None
    assert params.top_p is not None
    logits = logits / params.temperature
    if params.top_k and 0 < params.top_k < len(logits):
        smallest = logits.topk(params.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest, _NEVER)
    if params.top_p < 1.0:
        sorted_probabilities, order = logits.softmax(-1).sort(descending=True)
        before = sorted_probabilities.cumsum(-1) - sorted_probabilities
        logits = logits.index_fill(0, order[before >= params.top_p], _NEVER)
    probabilities = logits.softmax(-1)
    if params.min_p:
        probabilities = probabilities.masked_fill(
            probabilities < params.min_p * probabilities.max(), 0.0
        )
        probabilities = probabilities / probabilities.sum()
    return probabilities


def _adjust(logits: Tensor, running: RunningRequest) -> None:
    """Bans, bias and penalties, in place."""
    params, request = running.request.sampling, running.request
    banned = _completed_bad_words(request.bad_word_ids, running.generated)
    if len(running.generated) < params.min_tokens:
        banned |= request.stop_ids
    if params.repetition_penalty != 1.0:
        seen = running.seen_mask(len(logits), logits.device)
        factor = params.repetition_penalty or 1.0
        penalised = torch.where(logits > 0, logits / factor, logits * factor)
        logits.copy_(torch.where(seen, penalised, logits))
    if params.presence_penalty or params.frequency_penalty:
        counts = running.output_counts(len(logits), logits.device)
        logits -= params.presence_penalty * (counts > 0) + params.frequency_penalty * counts
    for token_id, bias in (params.logit_bias or {}).items():
        logits[token_id] += bias
    if banned:
        logits[torch.tensor(sorted(banned), device=logits.device)] = _NEVER


def _completed_bad_words(words: Sequence[tuple[int, ...]], generated: list[int]) -> set[int]:
    """The tokens that would complete a banned sequence."""
    banned = set()
    for word in words:
        *head, last = word
        if not head or generated[-len(head) :] == head:
            banned.add(last)
    return banned
