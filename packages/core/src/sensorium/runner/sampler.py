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

import torch
from torch import Tensor

from sensorium.runner.request_state import RunningRequest
from sensorium.sampling_params import SamplingParams
from sensorium.types import SampledToken, TokenLogprobs

_NEVER = float("-inf")


def sample(
    logits: Tensor, requests: Sequence[RunningRequest]
) -> tuple[list[SampledToken], dict[str, str]]:
    """Chooses one token for each row.

    Args:
        logits: (len(requests), vocab_size) float32; left as they are.

    Returns:
        The tokens, and request id → a sentence for rows from which none can be chosen.
    """
    edited = _edited(logits, requests)
    chosen = edited.argmax(-1)
    drawn = [i for i, running in enumerate(requests) if not running.request.sampling.greedy]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        chosen[rows] = _draw(edited[rows], [requests[i] for i in drawn])
    # -1: the model gave no numbers; -2: every token is forbidden.
    chosen = torch.where(edited.isneginf().all(-1), -2, chosen)
    chosen = torch.where(logits.isnan().any(-1), -1, chosen)
    reports = _reports(logits, chosen.clamp_min(0), requests)
    tokens, failed = [], {}
    for i, token_id in enumerate(chosen.tolist()):
        request_id = requests[i].request.request_id
        if token_id == -1:
            failed[request_id] = "The model's output for this request is not a number."
        elif token_id == -2:
            failed[request_id] = "The request forbids every token of the vocabulary."
        else:
            tokens.append(SampledToken(request_id, token_id, reports.get(i)))
    return tokens, failed


def _draw(logits: Tensor, requests: Sequence[RunningRequest]) -> Tensor:
    """(S, vocab_size) → (S,) tokens drawn from the truncated distributions."""
    params = [running.request.sampling for running in requests]
    temperatures = [1.0 if p.temperature is None else p.temperature for p in params]
    logits = truncate(logits / _column(temperatures, logits), params)
    generator = torch.Generator(logits.device)
    noise = torch.empty_like(logits)
    for row, running in zip(noise, requests, strict=True):
        generator.manual_seed(running.step_seed())
        row.exponential_(generator=generator)
    return (logits - noise.clamp_min(torch.finfo(noise.dtype).tiny).log()).argmax(-1)


def truncate(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Drops (sets to −∞) what min-p, then top-k, then top-p leave out; ties by lower id."""
    min_p = [p.min_p or 0.0 for p in params]
    if any(min_p):
        # p < min_p · p_max, in logarithms.
        floor = logits.amax(-1, keepdim=True) + _column(min_p, logits).log()
        logits = logits.masked_fill(logits < floor, _NEVER)
    vocab_size = logits.shape[-1]
    top_k = [p.top_k if p.top_k is not None and p.top_k > 0 else vocab_size for p in params]
    # A sum of probabilities may round to 1 before the last token; 2 is never reached.
    top_p = [p.top_p if p.top_p is not None and p.top_p < 1.0 else 2.0 for p in params]
    if min(top_k) >= vocab_size and min(top_p) > 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocab_size, device=logits.device)
    ordered = ordered.masked_fill(rank >= _column(top_k, logits), _NEVER)
    sums = ordered.softmax(-1).cumsum(-1)
    beyond = torch.zeros_like(ordered, dtype=torch.bool)
    beyond[:, 1:] = sums[:, :-1] >= _column(top_p, logits)
    ordered = ordered.masked_fill(beyond, _NEVER)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def _edited(logits: Tensor, requests: Sequence[RunningRequest]) -> Tensor:
    """Bias, bans and penalties; a copy if any request has some."""
    copy: Tensor | None = None
    for i, running in enumerate(requests):
        if _has_edits(running):
            copy = logits.clone() if copy is None else copy
            _edit(copy[i], running)
    return logits if copy is None else copy


def _has_edits(running: RunningRequest) -> bool:
    params = running.request.sampling
    return bool(
        params.repetition_penalty not in (None, 1.0)
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or running.request.bad_word_ids
        or len(running.generated) < params.min_tokens
    )


def _edit(row: Tensor, running: RunningRequest) -> None:
    """Edits (vocab_size,) logits in place."""
    params, device = running.request.sampling, row.device
    if banned := _banned(running):
        row[torch.tensor(banned, device=device)] = _NEVER
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=device)
        row[ids] += torch.tensor(list(params.logit_bias.values()), device=device)
    if params.repetition_penalty not in (None, 1.0):
        factor = params.repetition_penalty
        penalised = torch.where(row > 0, row / factor, row * factor)
        row.copy_(torch.where(running.seen_mask(len(row), device), penalised, row))
    if params.presence_penalty or params.frequency_penalty:
        counts = running.output_counts(len(row), device)
        row -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)


def _banned(running: RunningRequest) -> list[int]:
    """Tokens that would end the answer too early or complete a bad word."""
    request, generated = running.request, running.generated
    banned: set[int] = set()
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


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """(S, 1) of ``like``'s dtype and device."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
