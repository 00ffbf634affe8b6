"""From logits to tokens.

    raw logits ─┬─ logprobs, where asked for
                └─ bans and bias → penalties ─┬─ argmax, where greedy
                                              └─ temperature → min-p → top-k → top-p → draw

A draw is the argmax of logit − log(e) with e exponentially distributed noise (the Gumbel-max
trick). The noise of each row comes from a generator of its own, seeded by the request's seed
and the number of its tokens so far: batch mates, chunking and preemption leave no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sensorium.runner.state import RunningRequest
from sensorium.sampling_params import SamplingParams
from sensorium.types import TokenLogprobs

MINUS_INFINITY = float("-inf")


@dataclass(frozen=True, slots=True)
class Choice:
    """A row's new token, and its log-probabilities if they were asked for."""

    token_id: int
    logprobs: TokenLogprobs | None


class Sampler:
    """Chooses tokens; keeps nothing between steps but a generator."""

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device)

    def sample(self, logits: Tensor, requests: Sequence[RunningRequest]) -> list[Choice | None]:
        """Chooses one token for each row.

        Args:
            logits: (S, vocab_size) float32, left as it is.
            requests: one a row.

        Returns:
            A choice for each row; None where the row holds no numbers.
        """
        edited = _edited(logits, requests)
        chosen = edited.argmax(-1)
        drawn = [i for i, request in enumerate(requests) if not request.request.sampling.greedy]
        if drawn:
            rows = torch.tensor(drawn, device=logits.device)
            chosen[rows] = self._draw(edited[rows], [requests[i] for i in drawn])
        broken = logits.isnan().any(-1) | edited.isneginf().all(-1)
        reports = _reports(logits, chosen, requests)
        token_ids = torch.where(broken, -1, chosen).tolist()
        return [
            None if token_id < 0 else Choice(token_id, reports.get(i))
            for i, token_id in enumerate(token_ids)
        ]

    def _draw(self, logits: Tensor, requests: Sequence[RunningRequest]) -> Tensor:
        """(S, vocab_size) → (S,) tokens drawn from the truncated distributions."""
        params = [request.request.sampling for request in requests]
        logits = logits / _column(logits, [value_of(p.temperature, 1.0) for p in params])
        logits = truncate(logits, params)
        noise = torch.empty_like(logits)
        for row, request in zip(noise, requests, strict=True):
            self._generator.manual_seed(request.noise_seed())
            row.exponential_(generator=self._generator)
        return (logits - noise.clamp_min(torch.finfo(noise.dtype).tiny).log()).argmax(-1)


def truncate(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Drops (sets to −∞) what min-p, then top-k, then top-p leave out; ties by lower id."""
    min_p = [value_of(p.min_p, 0.0) for p in params]
    if any(min_p):
        # p < min_p · p_max, in logarithms.
        floor = logits.amax(-1, keepdim=True) + _column(logits, min_p).log()
        logits = logits.masked_fill(logits < floor, MINUS_INFINITY)
    vocab_size = logits.shape[-1]
    top_k = [p.top_k if p.top_k is not None and p.top_k > 0 else vocab_size for p in params]
    # A sum of probabilities may round to 1 before the last token; 2 is never reached.
    top_p = [p.top_p if p.top_p is not None and p.top_p < 1.0 else 2.0 for p in params]
    if min(top_k) >= vocab_size and min(top_p) > 1.0:
        return logits
    ordered, order = logits.sort(-1, descending=True, stable=True)
    rank = torch.arange(vocab_size, device=logits.device)
    ordered = ordered.masked_fill(rank >= _column(logits, top_k), MINUS_INFINITY)
    sums = ordered.softmax(-1).cumsum(-1)
    beyond = torch.zeros_like(ordered, dtype=torch.bool)
    beyond[:, 1:] = sums[:, :-1] >= _column(logits, top_p)
    ordered = ordered.masked_fill(beyond, MINUS_INFINITY)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def _edited(logits: Tensor, requests: Sequence[RunningRequest]) -> Tensor:
    """Bias, bans and penalties; a copy if any request has some."""
    copy: Tensor | None = None
    for i, running in enumerate(requests):
        if _has_edits(running):
            copy = logits.clone() if copy is None else copy
            _edit_row(copy[i], running)
    return logits if copy is None else copy


def _has_edits(running: RunningRequest) -> bool:
    params = running.request.sampling
    return bool(
        params.logit_bias
        or running.request.bad_word_ids
        or len(running.generated) < params.min_tokens
        or value_of(params.repetition_penalty, 1.0) != 1.0
        or params.presence_penalty
        or params.frequency_penalty
    )


def _edit_row(row: Tensor, running: RunningRequest) -> None:
    params, device = running.request.sampling, row.device
    banned = _banned(running)
    if banned:
        row[torch.tensor(banned, device=device)] = MINUS_INFINITY
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=device)
        row[ids] += torch.tensor(list(params.logit_bias.values()), device=device)
    repetition = value_of(params.repetition_penalty, 1.0)
    if repetition != 1.0:
        seen = running.seen(len(row), device)
        scaled = torch.where(row > 0, row / repetition, row * repetition)
        row.copy_(torch.where(seen, scaled, row))
    if params.presence_penalty or params.frequency_penalty:
        generated = torch.tensor(running.generated, dtype=torch.int64, device=device)
        counts = torch.bincount(generated, minlength=len(row))
        row -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)


def _banned(running: RunningRequest) -> list[int]:
    """Tokens that would end the answer too early or complete a bad word."""
    request, generated = running.request, running.generated
    banned = set()
    if len(generated) < request.sampling.min_tokens:
        banned |= request.stop_ids
    for word in request.bad_word_ids:
        begun = len(word) - 1
        if begun <= len(generated) and tuple(generated[len(generated) - begun :]) == word[:-1]:
            banned.add(word[-1])
    return sorted(banned)


def _reports(
    logits: Tensor, chosen: Tensor, requests: Sequence[RunningRequest]
) -> dict[int, TokenLogprobs]:
    """Row → log-probabilities of the raw distribution, for the rows that ask for them."""
    wanted = {
        i: running.request.sampling.logprobs
        for i, running in enumerate(requests)
        if running.request.sampling.logprobs is not None
    }
    if not wanted:
        return {}
    rows = torch.tensor(list(wanted), device=logits.device)
    logprobs = logits[rows].log_softmax(-1)
    own = logprobs.gather(-1, chosen[rows, None])
    ranks = (logprobs > own).sum(-1) + 1
    most = min(max(n or 0 for n in wanted.values()), logits.shape[-1])
    top_logprobs, top_ids = logprobs.topk(most, dim=-1)
    lists = (own[:, 0].tolist(), ranks.tolist(), top_ids.tolist(), top_logprobs.tolist())
    return {
        i: TokenLogprobs(logprob, rank, tuple(ids[:n]), tuple(values[:n]))
        for (i, n), logprob, rank, ids, values in zip(wanted.items(), *lists, strict=True)
    }


def value_of(value: float | None, neutral: float) -> float:
    """A field of ``SamplingParams``, which requests have filled."""
    return neutral if value is None else value


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    """(S, 1) of ``like``'s dtype and device."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
