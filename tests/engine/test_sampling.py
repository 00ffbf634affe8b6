"""Sampling through the whole engine: what is drawn follows the reference model's distribution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sampling_theory import LIMIT, Floats, deviation, distribution
from tiny_checkpoints import make_llama
from transformers import AutoModelForCausalLM

from sensorium import LLM, ConfigError, RequestError, SamplingParams

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
    [both] = answers(llm, **end, min_tokens=3, ignore_eos=True)
    assert both == (*held[:3], 2, 2, 2)


def test_only_allowed_tokens_are_written(llm: LLM) -> None:
    allowed = [40, 300, 9]
    params = {"temperature": 9.0, "max_tokens": 20, "n": 4, "allowed_token_ids": allowed}
    got = answers(llm, **params)
    assert {token for ids in got for token in ids} == set(allowed)
    assert len({*got}) == 4


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"logit_bias": {384: 1.0}}, "logit_bias has the token id 384; allowed are 0 to 383"),
        ({"stop_token_ids": [7, 10**9]}, "stop_token_ids has the token id 1000000000"),
        ({"allowed_token_ids": [1, 384]}, "allowed_token_ids has the token id 384"),
        ({"logprobs": 21}, "logprobs is 21; this engine reports 20 at most"),
        ({"prompt_logprobs": -1}, "prompt_logprobs is -1; this engine reports 20 at most"),
    ],
)
def test_what_the_engine_lacks_is_refused(llm: LLM, params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        llm.generate([TEXT], SamplingParams(**params), use_tqdm=False)
    llm.check_integrity()


def test_max_logprobs_is_the_engines_option(folder: Path) -> None:
    ask = {"temperature": 0.0, "max_tokens": 2, "ignore_eos": True}
    with LLM(folder, dtype="float32", max_model_len=64, max_logprobs=-1) as llm:
        asked = SamplingParams(**ask, logprobs=-1, prompt_logprobs=-1)
        [output] = llm.generate([TEXT], asked, use_tqdm=False)
        assert output.prompt_logprobs is not None
        assert output.outputs[0].logprobs is not None
        for entry in (*output.prompt_logprobs[1:], *output.outputs[0].logprobs):
            assert entry is not None
            assert set(entry) == set(range(384))
            assert sum(np.exp(found.logprob) for found in entry.values()) == pytest.approx(1)
            assert sorted(found.rank for found in entry.values()) == list(range(1, 385))
    with LLM(folder, dtype="float32", max_model_len=64, max_logprobs=2) as llm:
        [output] = llm.generate([TEXT], SamplingParams(**ask, logprobs=2), use_tqdm=False)
        assert output.outputs[0].logprobs is not None
        with pytest.raises(RequestError, match="logprobs is 3; this engine reports 2 at most"):
            llm.generate([TEXT], SamplingParams(**ask, logprobs=3), use_tqdm=False)
    with pytest.raises(ConfigError, match="max_logprobs is -2"):
        LLM(folder, max_logprobs=-2)


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
    # With its space and without: no "x" at all.
    without = set(itertools.product((space, other), repeat=2))
    assert pairs(bad_words=["x"]) & everything == without
    both = pairs(bad_words=["x", "y"]) & everything
    assert both == {(space, space)}


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
