"""From logits to tokens, on the device.

    raw logits ─┬─ logprobs, where asked for
                └─ bans and bias → penalties → masks ─┬─ argmax, where greedy
                                                      └─ temperature → min-p → top-k → top-p → draw

A draw is the argmax of logit − log(e) with e exponentially distributed noise (the Gumbel-max
trick). The noise of each row comes from a generator of its own, seeded by the request's seed
and the number of its tokens so far: batch mates, chunking and preemption leave no trace.

Nothing here waits for the device: what was chosen is read once it has arrived on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sensorium.runner.request_state import RunningRequest
from sensorium.runner.token_counts import TokenCounts
from sensorium.runner.upload import upload, upload_list
from sensorium.sampling_params import SamplingParams
from sensorium.types import Masks, PromptLogprobs, SampledTokens, TokenLogprobs

_NEVER = float("-inf")
#: Codes in place of a token: the logits are NaN; every token is forbidden.
_NO_NUMBER, _NO_TOKEN = -1, -2
_FAILURES = {
    _NO_NUMBER: "The model's output for this request is not a number.",
    _NO_TOKEN: "The request forbids every token of the vocabulary.",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One token for each of some requests, chosen on the device.

    Attributes:
        chosen: (S,) int64: tokens, or one of the codes below 0.
        reports: the requested log-probabilities, by row; None if no request wants any.
    """

    requests: tuple[RunningRequest, ...]
    chosen: Tensor
    reports: Reports | None

    @property
    def tokens(self) -> Tensor:
        """(S,) int64: the tokens, 0 where there is none."""
        return self.chosen.clamp_min(0)

    @property
    def tensors(self) -> list[Tensor]:
        """What ``read`` needs on the host."""
        reports = [] if self.reports is None else self.reports.tensors
        return [self.chosen, *reports]

    def read(self, tensors: Sequence[Tensor]) -> tuple[list[SampledTokens], dict[str, str]]:
        """A token each, and request id → a sentence for rows from which none can be chosen.

        Args:
            tensors: those of ``self.tensors``, on the host.
        """
        found = {} if self.reports is None else self.reports.read(tensors[1:])
        tokens, failed = [], {}
        for i, token_id in enumerate(tensors[0].tolist()):
            request_id = self.requests[i].request.request_id
            if token_id < 0:
                failed[request_id] = _FAILURES[token_id]
            else:
                logprobs = (found[i],) if i in found else ()
                tokens.append(SampledTokens(request_id, (token_id,), logprobs))
        return tokens, failed


@dataclass(frozen=True, slots=True)
class Reports:
    """Log-probabilities of the raw distribution.

    Attributes:
        wanted: row → how many of the best tokens.
        tensors: the chosen tokens' (R,) and their ranks; the best tokens (R, most) and theirs.
    """

    wanted: dict[int, int]
    tensors: tuple[Tensor, Tensor, Tensor, Tensor]

    def read(self, tensors: Sequence[Tensor]) -> dict[int, TokenLogprobs]:
        """By row."""
        lists = [tensor.tolist() for tensor in tensors]
        return {
            i: TokenLogprobs(logprob, rank, tuple(ids[:n]), tuple(values[:n]))
            for (i, n), logprob, rank, ids, values in zip(self.wanted.items(), *lists, strict=True)
        }


@dataclass(frozen=True, slots=True)
class PromptReports:
    """Log-probabilities of some tokens of one prompt.

    Attributes:
        places: of the tokens in the prompt.
        most: how many of the best tokens.
        tensors: as in ``Reports``.
    """

    request_id: str
    places: tuple[int, ...]
    most: int
    tensors: tuple[Tensor, Tensor, Tensor, Tensor]

    def read(self, tensors: Sequence[Tensor]) -> PromptLogprobs:
        """By place."""
        wanted = dict.fromkeys(range(len(self.places)), self.most)
        found = Reports(wanted, self.tensors).read(tensors)
        return tuple((place, found[i]) for i, place in enumerate(self.places))


@dataclass(frozen=True, slots=True)
class GivenReports:
    """Log-probabilities of given tokens of one answer.

    Attributes:
        most: how many of the best tokens.
        tensors: as in ``Reports``.
    """

    request_id: str
    token_ids: tuple[int, ...]
    most: int
    tensors: tuple[Tensor, Tensor, Tensor, Tensor]

    def read(self, tensors: Sequence[Tensor]) -> tuple[TokenLogprobs, ...]:
        """One for each token."""
        wanted = dict.fromkeys(range(len(self.token_ids)), self.most)
        return tuple(Reports(wanted, self.tensors).read(tensors).values())


def choose(
    logits: Tensor,
    requests: Sequence[RunningRequest],
    counts: TokenCounts | None = None,
    masks: Masks | None = None,
) -> Choice:
    """Chooses one token for each row.

    Args:
        logits: (len(requests), vocab_size) float32; left as they are.
        counts: where the requests that need counts have theirs; None: none needs any.
        masks: the tokens that some requests may choose from; None: no request is restricted.
    """
    edited = edit(logits, requests, counts)
    if masks is not None:
        edited = masked(edited, requests, masks)
    chosen = _argmax(edited)
    # A maximum is NaN if any value is, and −∞ only if all are.
    best = edited.gather(-1, chosen[:, None])[:, 0]
    drawn = [i for i, running in enumerate(requests) if not running.is_greedy]
    if drawn:
        rows = upload_list(drawn, torch.long, logits.device)
        chosen[rows] = _draw(edited[rows], [requests[i] for i in drawn])
    chosen = _coded(chosen, best)
    return Choice(tuple(requests), chosen, _reports(logits, chosen.clamp_min(0), requests))


def greedy(logits: Tensor) -> Tensor:
    """(S, vocab_size) raw logits → ``Choice.chosen`` of requests that take the best; for capturing:
    nothing is read on the host."""
    chosen = logits.argmax(-1)
    return _coded(chosen, logits.gather(-1, chosen[:, None])[:, 0])


def _coded(chosen: Tensor, best: Tensor) -> Tensor:
    """Tokens (S,), with a code where the best logit of a row says that there is none."""
    chosen = torch.where(best.isneginf(), _NO_TOKEN, chosen)
    return torch.where(best.isnan(), _NO_NUMBER, chosen)


def masked(logits: Tensor, requests: Sequence[RunningRequest], masks: Masks) -> Tensor:
    """The logits (S, vocab_size), −∞ where a request's mask forbids the token; a copy."""
    place = {request_id: i for i, request_id in enumerate(masks.request_ids)}
    names = [running.request.request_id for running in requests]
    rows = [i for i, name in enumerate(names) if name in place]
    if not rows:
        return logits
    index = np.array(rows, dtype=np.int64)
    words = masks.words[[place[names[i]] for i in rows]]
    at, sent = upload([index, words], logits.device)
    allowed = _unpacked(sent, logits.shape[-1])
    if len(rows) == len(requests):
        return torch.where(allowed, logits, _NEVER)
    return logits.index_copy(0, at, torch.where(allowed, logits[at], _NEVER))


def _unpacked(words: Tensor, vocab_size: int) -> Tensor:
    """``Masks.words`` (R, words) → (R, vocab_size) bool."""
    if words.device.type == "cpu":
        # Shifting 32 times takes 20 times as long.
        octets = words.numpy().view(np.uint8)
        bits = np.unpackbits(octets, axis=-1, count=vocab_size, bitorder="little")
        return torch.from_numpy(bits).view(torch.bool)
    shifts = torch.arange(32, dtype=torch.int32, device=words.device)
    return (words[:, :, None] >> shifts & 1).view(len(words), -1)[:, :vocab_size].bool()


def _argmax(logits: Tensor) -> Tensor:
    """(S, vocab_size) → (S,); the first NaN where there is one."""
    if logits.device.type == "cpu":
        # torch's goes through a row one by one: 8 times as long.
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _draw(logits: Tensor, requests: Sequence[RunningRequest]) -> Tensor:
    """(S, vocab_size) → (S,) tokens drawn from the truncated distributions."""
    logits = narrow(logits, [running.request.sampling for running in requests])
    generator = torch.Generator(logits.device)
    noise = torch.empty_like(logits)
    for row, running in zip(noise, requests, strict=True):
        generator.manual_seed(running.step_seed())
        row.exponential_(generator=generator)
    return _argmax(logits - noise.clamp_min(torch.finfo(noise.dtype).tiny).log())


def narrow(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """(S, vocab_size) edited logits of requests that draw → those of what they draw from."""
    temperatures = [1.0 if p.temperature is None else p.temperature for p in params]
    return truncate(logits / _column(temperatures, logits), params)


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


def edit(logits: Tensor, requests: Sequence[RunningRequest], counts: TokenCounts | None) -> Tensor:
    """Bias, bans and penalties of each row; a copy if any request has some.

    Args: as for ``choose``.
    """
    editing = [(i, running) for i, running in enumerate(requests) if running.edits_logits]
    biased = [i for i, running in editing if running.has_bias]
    banned = [(i, token_id) for i, running in editing for token_id in _early_ends(running)]
    penalised = [i for i, running in editing if running.needs_counts]
    if not (biased or banned or penalised):
        return logits
    edited = logits.clone()
    if biased:
        rows = torch.stack([_bias(requests[i], logits) for i in biased])
        edited.index_add_(0, upload_list(biased, torch.long, logits.device), rows)
    if banned:
        at = [upload_list(x, torch.long, logits.device) for x in zip(*banned, strict=True)]
        edited.index_put_(tuple(at), edited.new_full((), _NEVER))
    if penalised:
        assert counts is not None, "penalties need counts"
        where = upload_list(penalised, torch.long, logits.device)
        edited[where] = _penalised(edited[where], [requests[i] for i in penalised], counts)
    return edited


def _bias(running: RunningRequest, logits: Tensor) -> Tensor:
    """(vocab_size,): the request's bias, and −∞ for tokens that it doesn't allow; made once."""
    if running.bias is None:
        sampling = running.request.sampling
        bias = np.zeros(logits.shape[-1], dtype=np.float32)
        if sampling.allowed_token_ids:
            bias[:] = _NEVER
            bias[list(sampling.allowed_token_ids)] = 0.0
        for token_id, value in (sampling.logit_bias or {}).items():
            bias[token_id] += value
        [running.bias] = upload([bias], logits.device)
    return running.bias


def _penalised(logits: Tensor, requests: Sequence[RunningRequest], counts: TokenCounts) -> Tensor:
    """(S, vocab_size) logits of requests that need counts."""
    params = [running.request.sampling for running in requests]
    slots = upload_list([running.slot for running in requests], torch.long, logits.device)
    in_answer = counts.in_answer[slots]
    seen = counts.in_prompt[slots] | (in_answer > 0)
    factor = _column([p.repetition_penalty or 1.0 for p in params], logits)
    once = _column([p.presence_penalty for p in params], logits)
    each = _column([p.frequency_penalty for p in params], logits)
    repeated = torch.where(logits > 0, logits / factor, logits * factor)
    logits = torch.where(seen, repeated, logits)
    return logits - (each * in_answer + once * (in_answer > 0))


def _early_ends(running: RunningRequest) -> list[int]:
    """Tokens that would end the answer too early."""
    request = running.request
    if len(running.generated) < request.sampling.min_tokens:
        return sorted(request.stop_ids | request.eos_ids)
    return []


def _reports(logits: Tensor, chosen: Tensor, requests: Sequence[RunningRequest]) -> Reports | None:
    wanted = {
        i: running.request.sampling.logprobs
        for i, running in enumerate(requests)
        if running.request.sampling.logprobs is not None
    }
    if not wanted:
        return None
    rows = upload_list(list(wanted), torch.long, logits.device)
    return Reports(wanted, token_logprobs(logits[rows], chosen[rows], max(wanted.values())))


def token_logprobs(logits: Tensor, ids: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities (R,) of ``ids``, their ranks from 1, the best ids (R, most) and theirs."""
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(-1, ids[:, None])
    ranks = (logprobs > own).sum(-1) + 1
    top_logprobs, top_ids = logprobs.topk(min(most, logits.shape[-1]), dim=-1)
    return own[:, 0], ranks, top_ids, top_logprobs


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """(S, 1) of ``like``'s dtype and device."""
    return upload_list(values, like.dtype, like.device)[:, None]
