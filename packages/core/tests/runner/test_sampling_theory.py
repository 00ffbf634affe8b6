"""Sampled tokens against theory: every sampling parameter, by itself and with others.

What a distribution ought to be is computed here one token at a time, in float64, from the
parameters' descriptions alone; what is drawn is held against it by Pearson's chi-squared test.
All seeds are fixed, so a test gives the same answer every time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sampling import sample
from tiny_checkpoints import make_llama

from sensorium import LLM, SamplingParams
from sensorium.runner.request_state import RunningRequest
from sensorium.types import Chunk, EngineRequest

Floats = np.ndarray[Any, np.dtype[np.float64]]

LOGITS = np.array([1.6, 1.2, 1.2, 0.7, 0.4, 0.1, -0.2, -0.5, -0.9, -1.4, -2.0, -4.0])
VOCAB = len(LOGITS)
#: What the request has seen: tokens 1 and 4 in its prompt, 0 once and 3 twice in its answer.
PROMPT, GENERATED = (1, 4), (3, 0, 3)
#: Deviations of a normal variable beyond which a statistic is no accident: 3 in 100,000.
LIMIT = 4.0


# --- theory -----------------------------------------------------------------------------


def distribution(
    logits: Floats,
    prompt: Sequence[int],
    generated: Sequence[int],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    banned: Sequence[int] = (),
) -> Floats:
    """Bans and bias, penalties, temperature, min-p, top-k, top-p: the documented order."""
    edited = []
    for token, logit in enumerate(logits):
        value = float(logit) + (logit_bias or {}).get(token, 0.0)
        if token in prompt or token in generated:
            value = value / repetition_penalty if value > 0 else value * repetition_penalty
        count = list(generated).count(token)
        value -= frequency_penalty * count + (presence_penalty if count else 0.0)
        edited.append(-np.inf if token in banned else value / temperature)
    weights = np.exp(np.array(edited) - max(edited))
    weights[weights < min_p * weights.max()] = 0.0
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    order = order[: top_k or None]
    whole, mass, kept = sum(weights[token] for token in order), 0.0, []
    for token in order:
        if mass < top_p * whole - 1e-12:
            kept.append(token)
        mass += weights[token]
    result = np.zeros(len(weights))
    result[kept] = weights[kept]
    return np.asarray(result / result.sum())


def deviation(counts: Floats, expected: Floats) -> float:
    """How many deviations Pearson's statistic lies from its mean (Wilson and Hilferty 1931).

    Classes that ought to hold fewer than five draws are counted as one.
    """
    assert counts[expected == 0].sum() == 0, "an impossible token was drawn"
    wanted = expected * counts.sum()
    rare = (wanted < 5) & (expected > 0)
    groups = [(counts[i], wanted[i]) for i in np.flatnonzero(~rare & (expected > 0))]
    if rare.any():
        groups.append((counts[rare].sum(), wanted[rare].sum()))
    freedom = len(groups) - 1
    if freedom == 0:
        return 0.0
    statistic = sum((count - want) ** 2 / want for count, want in groups)
    spread = 2 / (9 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1 - spread)) / np.sqrt(spread))


# --- what is drawn ----------------------------------------------------------------------


def request(name: str, params: Mapping[str, Any]) -> RunningRequest:
    """A request that has generated GENERATED; "stops" and "words" go past the tokenizer."""
    params = dict(params)
    stops, words = params.pop("stops", ()), params.pop("words", ())
    sampling = SamplingParams(**params).filled({})
    made = EngineRequest(
        name, PROMPT, sampling, 64, stop_ids=frozenset(stops), bad_word_ids=tuple(words)
    )
    state = RunningRequest(made, 0)
    state.take(Chunk(name, 0, PROMPT + GENERATED, (0,), samples=True))
    return state


def drawn(params: Mapping[str, Any], num_draws: int = 4000) -> Floats:
    """How often each token comes, by as many seeds as draws."""
    requests = [request(f"r{i}", {"seed": i, **params}) for i in range(num_draws)]
    logits = torch.tensor(LOGITS, dtype=torch.float32).expand(num_draws, -1)
    tokens, failed = sample(logits, requests)
    assert failed == {}
    return np.bincount([token.token_id for token in tokens], minlength=VOCAB).astype(float)


#: What is asked for, and what theory needs to know of it where that is spelt otherwise.
ALONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({"temperature": 0.6}, {}),
    "top_k": ({"top_k": 5}, {}),
    "top_k that cuts a tie": ({"top_k": 2}, {}),
    "top_p": ({"top_p": 0.8}, {}),
    "min_p": ({"min_p": 0.3}, {}),
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


@pytest.mark.parametrize(("params", "theory"), ALONE.values(), ids=ALONE)
def test_each_parameter_alone(params: dict[str, Any], theory: dict[str, Any]) -> None:
    known = {k: v for k, v in params.items() if k not in ("stops", "words", "min_tokens")}
    expected = distribution(LOGITS, PROMPT, GENERATED, **known, **theory)
    assert abs(deviation(drawn(params), expected)) < LIMIT


@pytest.mark.parametrize(("params", "theory"), TOGETHER.values(), ids=TOGETHER)
def test_parameters_together(params: dict[str, Any], theory: dict[str, Any]) -> None:
    known = {k: v for k, v in params.items() if k not in ("stops", "words", "min_tokens")}
    expected = distribution(LOGITS, PROMPT, GENERATED, **known, **theory)
    assert abs(deviation(drawn(params), expected)) < LIMIT


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
    expected = distribution(LOGITS, PROMPT, GENERATED, **params)
    assert abs(deviation(drawn(params, 2500), expected)) < LIMIT


@pytest.mark.parametrize("name", [name for name in ALONE if "alone" not in name])
def test_the_check_sees_a_parameter_that_is_left_out(name: str) -> None:
    """Planted: what is drawn without a parameter doesn't pass for what it ought to make."""
    params, theory = ALONE[name]
    known = {k: v for k, v in params.items() if k not in ("stops", "words", "min_tokens")}
    expected = distribution(LOGITS, PROMPT, GENERATED, **known, **theory)
    plain = distribution(LOGITS, PROMPT, GENERATED)
    if np.allclose(expected, plain):
        assert name in ("nothing", "min_tokens that have been reached")
        return
    counts = drawn({})
    if counts[expected == 0].sum() == 0:
        assert abs(deviation(counts, expected)) > LIMIT
    else:
        with pytest.raises(AssertionError, match="impossible"):
            deviation(counts, expected)


def test_neither_mates_nor_places_in_the_batch_change_a_distribution() -> None:
    """Requests of many kinds in one call: each kind's draws follow its own distribution."""
    kinds = [*ALONE.values(), *TOGETHER.values()]
    rounds = 300
    requests = [
        request(f"r{i}.{kind}", {"seed": i * 1000 + kind, **params})
        for i in range(rounds)
        for kind, (params, _) in enumerate(kinds)
    ]
    logits = torch.tensor(LOGITS, dtype=torch.float32).expand(len(requests), -1)
    tokens, failed = sample(logits, requests)
    assert failed == {}
    ids = np.array([token.token_id for token in tokens]).reshape(rounds, len(kinds))
    for kind, (params, theory) in enumerate(kinds):
        known = {k: v for k, v in params.items() if k not in ("stops", "words", "min_tokens")}
        expected = distribution(LOGITS, PROMPT, GENERATED, **known, **theory)
        counts = np.bincount(ids[:, kind], minlength=VOCAB).astype(float)
        assert abs(deviation(counts, expected)) < LIMIT


def test_steps_of_one_seed_are_independent() -> None:
    """Pairs of neighbouring steps: the product of two equal distributions."""
    sampling = {"seed": 11, "top_k": 4}
    requests = []
    for step in range(6000):
        state = request(f"r{step}", sampling)
        state.take(Chunk(f"r{step}", len(PROMPT), (9,) * (step + 1), (0,), samples=True))
        requests.append(state)
    logits = torch.tensor(LOGITS, dtype=torch.float32).expand(len(requests), -1)
    ids = [token.token_id for token in sample(logits, requests)[0]]
    counts = np.zeros((VOCAB, VOCAB))
    for first, second in zip(ids[::2], ids[1::2], strict=True):
        counts[first, second] += 1
    one = distribution(LOGITS, PROMPT, (), top_k=4)
    assert abs(deviation(counts.ravel(), np.outer(one, one).ravel())) < LIMIT


def test_logprobs_do_not_depend_on_what_is_asked_besides() -> None:
    """They are of the model's own distribution, whatever token the parameters lead to."""
    raw = LOGITS - np.log(np.exp(LOGITS).sum())
    for params, _ in [*ALONE.values(), *TOGETHER.values()]:
        state = request("r", {**params, "seed": 3, "logprobs": 4})
        [token], _ = sample(torch.tensor(LOGITS, dtype=torch.float32)[None], [state])
        assert token.logprobs is not None
        assert token.logprobs.logprob == pytest.approx(raw[token.token_id], abs=1e-5)
        assert token.logprobs.rank == 1 + int((raw > raw[token.token_id] + 1e-9).sum())
        best = dict(zip(token.logprobs.top_ids, token.logprobs.top_logprobs, strict=True))
        assert set(best) == {0, 1, 2, 3}
        assert all(best[i] == pytest.approx(raw[i], abs=1e-5) for i in best)


# --- through the whole engine -----------------------------------------------------------

TEXT = [9, 40, 51, 300, 12, 7, 88]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"), seed=5)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Any:
    with LLM(folder, dtype="float32", max_model_len=64, max_num_seqs=128) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def model_logits(reference: Any, ids: Sequence[int]) -> Floats:
    with torch.inference_mode():
        logits = reference(torch.tensor([list(ids)])).logits[0, -1]
    return np.asarray(logits.double().numpy())


def answers(llm: LLM, **params: Any) -> list[tuple[int, ...]]:
    """Of one prompt, n times for each of several seeds.

    The i-th of n answers has the seed that lies i further on, so seeds are spaced.
    """
    seeds = params.pop("seeds", 1)
    asked = [SamplingParams(seed=1000 * i, **params) for i in range(seeds)]
    outputs = llm.generate([TEXT] * seeds, asked, use_tqdm=False)
    return [tuple(answer.token_ids) for output in outputs for answer in output.outputs]


def test_n_answers_follow_the_models_distribution(llm: LLM, reference: Any) -> None:
    """n answers of one seed are as independent as those of other seeds."""
    params = {"temperature": 0.8, "top_k": 12}
    expected = distribution(model_logits(reference, TEXT), TEXT, (), **params)
    for n, seeds in ((100, 12), (1, 1200)):
        got = answers(llm, n=n, seeds=seeds, max_tokens=1, ignore_eos=True, **params)
        assert len(got) == n * seeds
        counts = np.bincount([ids[0] for ids in got], minlength=len(expected)).astype(float)
        assert abs(deviation(counts, expected)) < LIMIT


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 1.5, "temperature": 1.3},
        {"repetition_penalty": 1.3, "presence_penalty": -1.0, "top_p": 0.9, "min_p": 0.02},
    ],
    ids=str,
)
def test_two_tokens_follow_their_joint_distribution(
    llm: LLM, reference: Any, params: dict[str, Any]
) -> None:
    """p(a) · p(b | a), where penalties have seen the prompt and a."""
    params = {"top_k": 4, **params}
    first = distribution(model_logits(reference, TEXT), TEXT, (), **params)
    expected = np.zeros((len(first), len(first)))
    for a in np.flatnonzero(first):
        logits = model_logits(reference, [*TEXT, int(a)])
        expected[a] = first[a] * distribution(logits, TEXT, (int(a),), **params)
    counts = np.zeros_like(expected)
    for pair in answers(llm, n=100, seeds=8, max_tokens=2, ignore_eos=True, **params):
        counts[pair] += 1
    assert abs(deviation(counts.ravel(), expected.ravel())) < LIMIT


def test_a_seed_repeats_and_another_differs(llm: LLM) -> None:
    params = {"temperature": 1.0, "n": 5, "max_tokens": 8, "ignore_eos": True}
    first = answers(llm, seeds=3, **params)
    assert first == answers(llm, seeds=3, **params)
    assert len(set(first)) == 15


def test_stop_token_ids_end_and_min_tokens_holds_them_off(llm: LLM) -> None:
    greedy = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
    [free] = answers(llm, **greedy)
    stop = free[4]
    where = free.index(stop)
    asked = SamplingParams(**greedy, stop_token_ids=[stop])
    [output] = llm.generate([TEXT], asked, use_tqdm=False)
    assert tuple(output.outputs[0].token_ids) == free[: where + 1]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", stop)
    [held] = answers(llm, **greedy, stop_token_ids=[stop], min_tokens=where + 3)
    assert held[:where] == free[:where]
    assert stop not in held[: where + 3], "it can't be chosen before min_tokens"
    assert len(held) >= where + 3


def test_ignore_eos_and_eos(llm: LLM) -> None:
    """The model's end token is made likely by a bias: it ends the answer, or is passed over."""
    end = {"temperature": 0.0, "max_tokens": 6, "logit_bias": {2: 100.0}}
    [ended] = answers(llm, **end)
    assert ended == (2,)
    [ignored] = answers(llm, **end, ignore_eos=True)
    assert ignored == (2,) * 6
    [held] = answers(llm, **end, min_tokens=3)
    assert held[3:] == (2,)
    assert 2 not in held[:3]


def test_bad_words_are_never_completed(llm: LLM) -> None:
    """This tokenizer writes a word as its space and its letters, so a word has two tokens."""
    space, letter, other = 259, 260 + ord("x") - 33, 260 + ord("y") - 33
    bias = dict.fromkeys((space, letter, other), 40.0)
    params = {"temperature": 9.0, "max_tokens": 12, "ignore_eos": True, "n": 20}

    def pairs(**more: Any) -> set[tuple[int, int]]:
        got = answers(llm, logit_bias=bias, **params, **more)
        return {pair for ids in got for pair in itertools.pairwise(ids)}

    everything = set(itertools.product((space, letter, other), repeat=2))
    assert pairs() >= everything
    assert pairs(bad_words=["x"]) & everything == everything - {(space, letter)}
    both = pairs(bad_words=["x", "y"]) & everything
    assert both == everything - {(space, letter), (space, other)}


def test_logprobs_are_the_models(llm: LLM, reference: Any) -> None:
    asked = SamplingParams(
        seed=1, temperature=1.2, repetition_penalty=1.5, max_tokens=5, logprobs=3, ignore_eos=True
    )
    [output] = llm.generate([TEXT], asked, use_tqdm=False)
    answer = output.outputs[0]
    assert answer.logprobs is not None
    for i, token in enumerate(answer.token_ids):
        logits = model_logits(reference, [*TEXT, *answer.token_ids[:i]])
        raw = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        reported = answer.logprobs[i]
        assert set(np.argsort(-raw)[:3].tolist()) <= set(reported)
        for reported_id in {token, *reported}:
            assert reported[reported_id].logprob == pytest.approx(raw[reported_id], abs=1e-4)
