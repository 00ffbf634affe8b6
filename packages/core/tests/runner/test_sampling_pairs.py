"""Every sampling parameter alone and beside every other, against transformers' processors.

transformers has none for the penalties of presence and frequency; they follow the formula that
OpenAI publishes: logit − count · frequency − (count > 0) · presence. The order is vLLM's: bias,
bans and penalties, then temperature, min-p, top-k, top-p.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sampling import masks_of
from torch import Tensor
from transformers import generation as theirs

from sensorium.runner.request_state import RunningRequest
from sensorium.runner.sampler import choose, edit, masked, narrow
from sensorium.runner.token_counts import TokenCounts
from sensorium.sampling_params import SamplingParams
from sensorium.types import Chunk, EngineRequest

VOCAB = 50
PROMPT = (3, 9, 9, 14)
ANSWER = (9, 20, 21, 20)
STOPS, EOS = [2, 8], [1, 20]
BIAS = {5: 3.5, 9: -2.0, 20: 1.5, 33: 100.0}
WORDS = ((20, 7), (11,), (21, 20, 4), (20, 21, 6), (33,))
ALLOWED = list(range(4, 34))
Processor = Callable[[Tensor, Tensor], Tensor]


def penalty(presence: float = 0.0, frequency: float = 0.0) -> Processor:
    def apply(ids: Tensor, logits: Tensor) -> Tensor:
        counts = torch.bincount(ids[0, len(PROMPT) :], minlength=VOCAB)
        return logits - frequency * counts - presence * (counts > 0)

    return apply


def late(min_tokens: int) -> Processor:
    ends = [*STOPS, *EOS]
    return theirs.MinNewTokensLengthLogitsProcessor(len(PROMPT), min_tokens, ends)


#: Name → the options, and what they are in transformers, in the order in which they apply.
OPTIONS: dict[str, tuple[dict[str, Any], Processor | None]] = {
    "bias": (
        {"logit_bias": BIAS},
        theirs.SequenceBiasLogitsProcessor([[[i], bias] for i, bias in BIAS.items()]),
    ),
    "allowed": (
        {"allowed_token_ids": ALLOWED},
        theirs.PrefixConstrainedLogitsProcessor(lambda batch, ids: ALLOWED, 1),
    ),
    "bad words": ({"bad_words": ["…"]}, theirs.NoBadWordsLogitsProcessor([*map(list, WORDS)])),
    "min tokens": ({"min_tokens": 6}, late(6)),
    "min tokens, reached": ({"min_tokens": 4}, late(4)),
    "ignore eos": ({"ignore_eos": True}, None),
    "logprobs": ({"logprobs": 4}, None),
    "repetition": (
        {"repetition_penalty": 1.4},
        theirs.RepetitionPenaltyLogitsProcessor(1.4),
    ),
    "presence": ({"presence_penalty": 0.9}, penalty(presence=0.9)),
    "frequency": ({"frequency_penalty": -0.6}, penalty(frequency=-0.6)),
    "temperature": ({"temperature": 0.7}, theirs.TemperatureLogitsWarper(0.7)),
    "min p": ({"min_p": 0.05}, theirs.MinPLogitsWarper(0.05)),
    "top k": ({"top_k": 12}, theirs.TopKLogitsWarper(12)),
    "top p": ({"top_p": 0.8}, theirs.TopPLogitsWarper(0.8)),
    "seed": ({"seed": 3}, None),
}
COMBINATIONS = [
    *((name,) for name in OPTIONS),
    *(
        pair
        for pair in itertools.combinations(OPTIONS, 2)
        if OPTIONS[pair[0]][0].keys().isdisjoint(OPTIONS[pair[1]][0])
    ),
]


def running(names: tuple[str, ...], slot: int, **more: Any) -> RunningRequest:
    options = {k: v for name in names for k, v in OPTIONS[name][0].items()} | more
    sampling = SamplingParams(**options).filled({})
    stops = frozenset(STOPS if sampling.ignore_eos else [*STOPS, *EOS])
    request = EngineRequest(
        f"r{slot}",
        PROMPT,
        sampling,
        64,
        stop_ids=stops,
        eos_ids=frozenset(EOS),
        bad_word_ids=WORDS if sampling.bad_words else (),
    )
    state = RunningRequest(request, 0, slot)
    state.take(Chunk(request.request_id, 0, PROMPT + ANSWER, (0,), num_rows=1))
    return state


def counted(requests: list[RunningRequest]) -> TokenCounts:
    counts = TokenCounts(len(requests), VOCAB, torch.device("cpu"))
    for of in requests:
        counts.start(of)
        counts.take(of)
    return counts


def expected(names: tuple[str, ...], logits: Tensor) -> Tensor:
    ids = torch.tensor([[*PROMPT, *ANSWER]])
    row = logits[None].clone()
    for name, (_, processor) in OPTIONS.items():
        if processor is not None and name in names:
            row = processor(ids, row)
    return row[0]


@pytest.fixture(scope="module", params=range(3))
def logits(request: pytest.FixtureRequest) -> Tensor:
    generator = torch.Generator().manual_seed(request.param)
    return torch.randn(VOCAB, generator=generator) * 3


def differing(ours: Tensor, logits: Tensor) -> Iterator[str]:
    for row, names in zip(ours, COMBINATIONS, strict=True):
        if not torch.allclose(row.softmax(-1), expected(names, logits).softmax(-1), atol=1e-6):
            yield " + ".join(names)


def test_what_is_drawn_from_is_transformers_distribution(logits: Tensor) -> None:
    """All combinations share one batch, so no row may take part of another's parameters."""
    requests = [running(names, slot) for slot, names in enumerate(COMBINATIONS)]
    rows = logits.repeat(len(requests), 1)
    masks = masks_of(requests, VOCAB)
    assert masks is not None
    edited = masked(edit(rows, requests, counted(requests)), requests, masks)
    ours = narrow(edited, [of.request.sampling for of in requests])
    assert list(differing(ours, logits)) == []
    assert torch.equal(rows, logits.expand_as(rows)), "the raw logits were changed"
    # A parameter that were ignored would be found: each but the switches changes something.
    plain = logits.repeat(len(requests), 1)
    changing = {name for name in OPTIONS if OPTIONS[name][1] and name != "min tokens, reached"}
    assert {name for name in differing(plain, logits) if name in OPTIONS} == changing


def test_what_is_chosen_is_of_that_distribution(logits: Tensor) -> None:
    """Drawn from its support; greedily, its best. Log-probabilities are of the raw one."""
    drawing = [running(names, slot) for slot, names in enumerate(COMBINATIONS)]
    greedy = [
        running(names, len(drawing) + slot, temperature=0.0)
        for slot, names in enumerate(COMBINATIONS)
    ]
    requests = [of for pair in zip(drawing, greedy, strict=True) for of in pair]
    choice = choose(
        logits.repeat(len(requests), 1),
        requests,
        counted(drawing + greedy),
        masks_of(requests, VOCAB),
    )
    tokens, failed = choice.read(choice.tensors)
    assert failed == {}
    raw = logits.log_softmax(-1)
    for names, drawn, best in zip(COMBINATIONS, tokens[::2], tokens[1::2], strict=True):
        after = expected(names, logits)
        assert after[drawn.token_ids[0]].isfinite(), names
        assert best.token_ids[0] == int(after.argmax()), names
        for token in (drawn, best):
            assert len(token.logprobs) == ("logprobs" in names)
            for found in token.logprobs:
                assert found.logprob == pytest.approx(float(raw[token.token_ids[0]]))
                assert found.top_ids == tuple(raw.topk(4).indices.tolist())


@pytest.mark.gpu
def test_on_a_gpu_nothing_waits_and_the_distributions_are_the_same(logits: Tensor) -> None:
    device = torch.device("cuda")
    requests = [running(names, slot) for slot, names in enumerate(COMBINATIONS)]
    counts = TokenCounts(len(requests), VOCAB, device)
    for of in requests:
        counts.start(of)
        counts.take(of)
    rows = logits.to(device).repeat(len(requests), 1)
    params = [of.request.sampling for of in requests]
    masks = masks_of(requests, VOCAB)
    assert masks is not None
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = narrow(masked(edit(rows, requests, counts), requests, masks), params)
        choice = choose(rows, requests, counts, masks)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert list(differing(ours.cpu(), logits)) == []
    tokens, failed = choice.read([tensor.cpu() for tensor in choice.tensors])
    assert failed == {}
    for names, token in zip(COMBINATIONS, tokens, strict=True):
        assert expected(names, logits)[token.token_ids[0]].isfinite(), names
