"""Sampled tokens against theory: every sampling parameter, by itself and with others.

All seeds are fixed, so a test gives the same answer every time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from sampling import sample
from sampling_theory import LIMIT, Floats, deviation, distribution

from sensorium import SamplingParams
from sensorium.runner.request_state import RunningRequest
from sensorium.types import Chunk, EngineRequest

LOGITS = np.array([1.6, 1.2, 1.2, 0.7, 0.4, 0.1, -0.2, -0.5, -0.9, -1.4, -2.0, -4.0])
VOCAB = len(LOGITS)
#: What the request has seen: tokens 1 and 4 in its prompt, 0 once and 3 twice in its answer.
PROMPT, GENERATED = (1, 4), (3, 0, 3)


def request(name: str, params: Mapping[str, Any]) -> RunningRequest:
    """A request that has generated GENERATED; "stops" and "words" go past the tokenizer."""
    params = dict(params)
    stops, words = params.pop("stops", ()), params.pop("words", ())
    return asked(name, SamplingParams(**params).filled({}), stops, words)


def asked(name: str, sampling: SamplingParams, stops: Any = (), words: Any = ()) -> RunningRequest:
    made = EngineRequest(
        name, PROMPT, sampling, 64, stop_ids=frozenset(stops), bad_word_ids=tuple(words)
    )
    state = RunningRequest(made, 0)
    state.take(Chunk(name, 0, PROMPT + GENERATED, (0,), num_rows=1))
    return state


def drawn(params: Mapping[str, Any], num_draws: int = 2400) -> Floats:
    """How often each token comes, by as many requests as draws, whose names are their seeds."""
    params = dict(params)
    stops, words = params.pop("stops", ()), params.pop("words", ())
    sampling = SamplingParams(**params).filled({})
    requests = [asked(f"r{i}", sampling, stops, words) for i in range(num_draws)]
    logits = torch.tensor(LOGITS, dtype=torch.float32).expand(num_draws, -1)
    tokens, failed = sample(logits, requests)
    assert failed == {}
    return np.bincount([token.token_ids[0] for token in tokens], minlength=VOCAB).astype(float)


#: What is asked for, and what theory needs to know of it where that is spelt otherwise.
ALONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({"temperature": 0.6}, {}),
    "temperature above 1": ({"temperature": 3.0}, {}),
    "top_k": ({"top_k": 5}, {}),
    "top_k that cuts a tie": ({"top_k": 2}, {}),
    "top_k of all": ({"top_k": 100}, {}),
    "top_p": ({"top_p": 0.8}, {}),
    "top_p of one token": ({"top_p": 0.01}, {}),
    "min_p": ({"min_p": 0.3}, {}),
    "min_p of 1": ({"min_p": 1.0}, {}),
    "repetition_penalty": ({"repetition_penalty": 1.7}, {}),
    "repetition_penalty below 1": ({"repetition_penalty": 0.6}, {}),
    "presence_penalty": ({"presence_penalty": 1.3}, {}),
    "presence_penalty below 0": ({"presence_penalty": -1.1}, {}),
    "frequency_penalty": ({"frequency_penalty": 0.9}, {}),
    "frequency_penalty below 0": ({"frequency_penalty": -0.7}, {}),
    "logit_bias": ({"logit_bias": {0: -1.5, 7: 2.0, 11: 5.0}}, {}),
    "bad_words": (
        {"words": [(0,), (3, 5), (0, 3, 1), (9, 9, 9, 3, 0, 3, 2), (4, 6)]},
        {"banned": (0, 5, 1)},
    ),
    "min_tokens": ({"stops": (1, 2), "min_tokens": 4}, {"banned": (1, 2)}),
    "min_tokens that have been reached": ({"stops": (1, 2), "min_tokens": 3}, {}),
    "stop_token_ids alone forbid nothing": ({"stops": (1, 2)}, {}),
    "nothing": ({}, {}),
}
#: Those of ALONE that make what nothing makes.
NO_EFFECT = (
    "top_k of all",
    "min_tokens that have been reached",
    "stop_token_ids alone forbid nothing",
    "nothing",
)
TOGETHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "everything": (
        {
            "temperature": 1.4,
            "top_k": 8,
            "top_p": 0.9,
            "min_p": 0.05,
            "repetition_penalty": 1.2,
            "presence_penalty": 0.3,
            "frequency_penalty": 0.2,
            "logit_bias": {8: 1.0},
            "words": [(2,)],
            "stops": (6,),
            "min_tokens": 9,
        },
        {"banned": (2, 6)},
    ),
    "top_k, then top_p": ({"top_k": 3, "top_p": 0.5}, {}),
    "a ban inside top_k": ({"words": [(0,), (1,)], "top_k": 3}, {"banned": (0, 1)}),
    "a bias on a banned token": (
        {"words": [(0,)], "logit_bias": {0: 100.0}},
        {"banned": (0,)},
    ),
    "a bias that changes its token's sign": (
        {"logit_bias": {1: -3.0, 4: -2.0}, "repetition_penalty": 1.5},
        {},
    ),
    "a word's end that may stop": (
        {"words": [(3, 5)], "stops": (5, 6), "min_tokens": 5},
        {"banned": (5, 6)},
    ),
}


CASES = {**ALONE, **TOGETHER}


def theory_of(params: Mapping[str, Any], theory: Mapping[str, Any]) -> Floats:
    """The distribution that a case asks for."""
    known = {k: v for k, v in params.items() if k not in ("stops", "words", "min_tokens")}
    return distribution(LOGITS, PROMPT, GENERATED, **known, **theory)


@pytest.mark.parametrize(("params", "theory"), CASES.values(), ids=CASES)
def test_draws_follow_the_theory(params: dict[str, Any], theory: dict[str, Any]) -> None:
    assert abs(deviation(drawn(params), theory_of(params, theory))) < LIMIT


NUMBERS: dict[str, Any] = {
    "temperature": 0.7,
    "top_k": 6,
    "top_p": 0.85,
    "min_p": 0.1,
    "repetition_penalty": 1.4,
    "presence_penalty": 0.8,
    "frequency_penalty": 0.5,
    "logit_bias": {5: 1.5, 0: -0.5},
}


@pytest.mark.parametrize("pair", list(itertools.combinations(NUMBERS, 2)), ids=" and ".join)
def test_every_pair_of_numbers(pair: tuple[str, str]) -> None:
    params = {name: NUMBERS[name] for name in pair}
    assert abs(deviation(drawn(params, 1600), theory_of(params, {}))) < LIMIT


@pytest.fixture(scope="module")
def plain() -> Floats:
    """What is drawn where nothing is asked for."""
    return drawn({})


@pytest.mark.parametrize("name", [name for name in ALONE if name not in NO_EFFECT])
def test_the_check_sees_a_parameter_that_is_left_out(name: str, plain: Floats) -> None:
    """Planted: what is drawn without a parameter doesn't pass for what it ought to make."""
    expected = theory_of(*ALONE[name])
    counts = plain
    if counts[expected == 0].sum() == 0:
        assert abs(deviation(counts, expected)) > LIMIT
    else:
        with pytest.raises(AssertionError, match="impossible"):
            deviation(counts, expected)


def test_neither_mates_nor_places_in_the_batch_change_a_distribution() -> None:
    """Requests of many kinds in one call: each kind's draws follow its own distribution."""
    kinds = list(CASES.values())
    rounds = 300
    requests = [
        request(f"r{i}.{kind}", {"seed": i * 1000 + kind, **params})
        for i in range(rounds)
        for kind, (params, _) in enumerate(kinds)
    ]
    logits = torch.tensor(LOGITS, dtype=torch.float32).expand(len(requests), -1)
    tokens, failed = sample(logits, requests)
    assert failed == {}
    ids = np.array([token.token_ids[0] for token in tokens]).reshape(rounds, len(kinds))
    for kind, (params, theory) in enumerate(kinds):
        counts = np.bincount(ids[:, kind], minlength=VOCAB).astype(float)
        assert abs(deviation(counts, theory_of(params, theory))) < LIMIT


def test_steps_of_one_seed_are_independent() -> None:
    """Pairs of neighbouring steps: the product of two equal distributions."""
    sampling = {"seed": 11, "top_k": 4}
    requests = []
    for step in range(3000):
        state = request(f"r{step}", sampling)
        state.take(Chunk(f"r{step}", len(PROMPT), (9,) * (step + 1), (0,), num_rows=1))
        requests.append(state)
    logits = torch.tensor(LOGITS, dtype=torch.float32).expand(len(requests), -1)
    ids = [token.token_ids[0] for token in sample(logits, requests)[0]]
    counts = np.zeros((VOCAB, VOCAB))
    for first, second in zip(ids[::2], ids[1::2], strict=True):
        counts[first, second] += 1
    one = distribution(LOGITS, PROMPT, (), top_k=4)
    assert abs(deviation(counts.ravel(), np.outer(one, one).ravel())) < LIMIT


def test_logprobs_do_not_depend_on_what_is_asked_besides() -> None:
    """They are of the model's own distribution, whatever token the parameters lead to."""
    raw = LOGITS - np.log(np.exp(LOGITS).sum())
    for params, _ in CASES.values():
        state = request("r", {**params, "seed": 3, "logprobs": 4})
        [token], _ = sample(torch.tensor(LOGITS, dtype=torch.float32)[None], [state])
        [found] = token.logprobs
        assert found.logprob == pytest.approx(raw[token.token_ids[0]], abs=1e-5)
        assert found.rank == 1 + int((raw > raw[token.token_ids[0]] + 1e-9).sum())
        best = dict(zip(found.top_ids, found.top_logprobs, strict=True))
        assert set(best) == {0, 1, 2, 3}
        assert all(best[i] == pytest.approx(raw[i], abs=1e-5) for i in best)
