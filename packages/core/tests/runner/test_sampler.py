"""What each sampling parameter does to one token, and what is remembered between tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling import sample
from torch import Tensor

from sensorium.runner.request_state import RunningRequest
from sensorium.runner.sampler import truncate
from sensorium.runner.token_counts import TokenCounts
from sensorium.sampling_params import SamplingParams
from sensorium.types import PENDING, Chunk, EngineRequest, SampledTokens

LOGITS = torch.tensor([2.0, 1.5, 1.5, 0.3, -0.2, -1.0, 0.9, -3.0, 1.1, -7.0])
VOCAB = len(LOGITS)


def running(
    prompt: tuple[int, ...] = (0,),
    generated: tuple[int, ...] = (),
    *,
    name: str = "r",
    stop_ids: frozenset[int] = frozenset(),
    eos_ids: frozenset[int] = frozenset(),
    bad_words: tuple[tuple[int, ...], ...] = (),
    **params: Any,
) -> RunningRequest:
    sampling = SamplingParams(**params).filled({})
    request = EngineRequest(
        name, prompt, sampling, 64, stop_ids=stop_ids, eos_ids=eos_ids, bad_word_ids=bad_words
    )
    state = RunningRequest(request, 0)
    state.take(Chunk(name, 0, prompt + generated, (0,), num_rows=1))
    return state


def sampled(logits: Tensor, *requests: RunningRequest) -> list[SampledTokens]:
    before = logits.clone()
    tokens, failed = sample(logits, requests)
    assert failed == {}
    assert torch.equal(logits, before), "the raw logits were changed"
    return tokens


def greedy(logits: Tensor = LOGITS, **options: Any) -> int:
    [token] = sampled(logits[None], running(temperature=0.0, **options))
    return token.token_ids[0]


def ranking(**options: Any) -> list[int]:
    """All tokens, in the order in which greedy decoding would choose them."""
    logits, order = LOGITS.clone(), []
    for _ in range(VOCAB):
        order.append(greedy(logits, **options))
        logits[order[-1]] = -1e9
    return order


# --- parameters that edit logits --------------------------------------------------------


def test_greedy_takes_the_best_and_the_first_of_equals() -> None:
    assert greedy() == 0
    assert greedy(LOGITS.roll(-1)) == 9
    assert greedy(torch.ones(5)) == 0


def test_repetition_penalty_counts_prompt_and_output() -> None:
    assert greedy(prompt=(0,), repetition_penalty=1.2) == 0  # 2 / 1.2 is still the best
    assert greedy(prompt=(0,), repetition_penalty=2.0) == 1
    assert greedy(prompt=(0, 1), generated=(2,), repetition_penalty=2.0) == 8
    # Negative logits are multiplied, so that they too sink.
    assert greedy(-LOGITS.abs(), prompt=(4,), repetition_penalty=4.0) == 3
    assert greedy(-LOGITS.abs(), prompt=(4,), repetition_penalty=1.0) == 4


def test_presence_penalty_counts_the_output_once() -> None:
    assert greedy(prompt=(0,), presence_penalty=2.0) == 0
    assert greedy(generated=(0,), presence_penalty=0.4) == 0
    assert greedy(generated=(0, 0, 0), presence_penalty=0.4) == 0
    assert greedy(generated=(0,), presence_penalty=0.6) == 1
    assert greedy(generated=(6,), presence_penalty=-2.0) == 6


def test_frequency_penalty_grows_with_the_count() -> None:
    assert greedy(prompt=(0, 0, 0), frequency_penalty=2.0) == 0
    assert greedy(generated=(0,), frequency_penalty=0.4) == 0
    assert greedy(generated=(0, 0), frequency_penalty=0.4) == 1


def test_logit_bias_is_added() -> None:
    assert greedy(logit_bias={9: 9.5}) == 9
    assert greedy(logit_bias={0: -100.0, 9: 1.0}) == 1
    assert ranking(logit_bias={"7": 4.7})[:3] == [0, 7, 1]


def test_min_tokens_forbids_stopping() -> None:
    stops = frozenset({0, 1})
    assert greedy(stop_ids=stops, min_tokens=2) == 2
    assert greedy(stop_ids=stops, min_tokens=2, generated=(5,)) == 2
    assert greedy(stop_ids=stops, min_tokens=2, generated=(5, 5)) == 0


def test_min_tokens_forbids_end_of_text_that_is_ignored() -> None:
    ignored = {"eos_ids": frozenset({0}), "stop_ids": frozenset({1}), "min_tokens": 2}
    assert greedy(**ignored) == 2
    assert greedy(**ignored, generated=(5, 5)) == 0


def test_only_allowed_tokens_are_chosen() -> None:
    assert ranking(allowed_token_ids=[7, 3, 9])[:3] == [3, 7, 9]
    assert greedy(allowed_token_ids=[7, 3, 9], logit_bias={0: 100.0, 7: 5.0}) == 7
    assert greedy(allowed_token_ids=[3, 9], bad_words=((3,),)) == 9
    drawn = sampled(
        LOGITS.expand(50, -1),
        *(running(name=f"r{i}", temperature=9.0, allowed_token_ids=[4, 9]) for i in range(50)),
    )
    assert {token.token_ids[0] for token in drawn} == {4, 9}


def test_bad_words_cannot_be_completed() -> None:
    assert greedy(bad_words=((0,),)) == 1
    assert greedy(bad_words=((4, 0),), generated=(4,)) == 1
    assert greedy(bad_words=((4, 0),), generated=(3,)) == 0
    assert greedy(bad_words=((3, 4, 0),), generated=(5, 3, 4)) == 1
    assert greedy(bad_words=((3, 4, 0),), generated=(4,)) == 0
    # A word that the prompt began isn't the answer's.
    assert greedy(bad_words=((4, 0),), prompt=(4,)) == 0


def test_bans_win_over_bias() -> None:
    assert greedy(bad_words=((0,),), logit_bias={0: 100.0}) == 1


def test_a_request_that_forbids_everything_fails_alone() -> None:
    words = tuple((token,) for token in range(VOCAB))
    banned = running(name="bad", bad_words=words, temperature=1.0)
    ends = frozenset({0, 1})
    late = running(name="late", stop_ids=ends, min_tokens=1, allowed_token_ids=[0, 1])
    tokens, failed = sample(LOGITS.expand(3, -1), [banned, running(temperature=0.0), late])
    sentence = "The request forbids every token of the vocabulary."
    assert failed == {"bad": sentence, "late": sentence}
    assert [token.token_ids[0] for token in tokens] == [0]


def test_rows_that_hold_no_numbers_fail_alone() -> None:
    logits = LOGITS.repeat(2, 1)
    logits[0, 3] = float("nan")
    tokens, failed = sample(logits, [running(name="bad"), running(temperature=0.0)])
    assert list(failed) == ["bad"]
    assert [token.token_ids[0] for token in tokens] == [0]


# --- draws ------------------------------------------------------------------------------


def test_top_p_keeps_all_at_1() -> None:
    logits = torch.zeros(1, 1000)  # their sum rounds above and below 1 on the way
    params = [SamplingParams(top_p=1.0, top_k=999).filled({})]
    assert int(truncate(logits, params).isfinite().sum()) == 999


def test_a_seed_repeats_whatever_else_is_in_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    others = [running(name=f"o{i}", seed=i, temperature=0.5) for i in range(6)]
    mixed = [*others[:3], running(temperature=0.0), running(seed=7, min_p=0.1), *others[3:]]
    logits = torch.randn(len(mixed), VOCAB, generator=generator)
    logits[4] = LOGITS
    [alone] = sampled(LOGITS[None], running(seed=7, min_p=0.1))
    assert sampled(logits, *mixed)[4].token_ids[0] == alone.token_ids[0]


def test_seeds_and_steps_differ() -> None:
    def drawn(seed: int | None, step: int, name: str = "r") -> float:
        return running(generated=(0,) * step, seed=seed, name=name).step_seed()

    seeds = [drawn(seed, step) for seed in (-2, 0, 1, 2**63 - 1, None) for step in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert drawn(None, 0, "a") != drawn(None, 0, "b")
    assert drawn(3, 0, "a") == drawn(3, 0, "b")


# --- log-probabilities ------------------------------------------------------------------


def test_logprobs_are_of_the_raw_distribution() -> None:
    raw = LOGITS.log_softmax(-1)
    request = running(
        temperature=0.0, generated=(0,), presence_penalty=2.0, logit_bias={5: 9.0}, logprobs=3
    )
    plain, other = running(temperature=0.0), running(temperature=1.0, top_k=1, logprobs=0)
    first, second, third = sampled(LOGITS.expand(3, -1), request, plain, other)
    assert [one.token_ids for one in (first, second, third)] == [(5,), (0,), (0,)]
    assert second.logprobs == ()
    [found] = first.logprobs
    assert found.logprob == pytest.approx(float(raw[5]))
    assert found.rank == 8
    assert found.top_ids[0] == 0
    assert sorted(found.top_ids) == [0, 1, 2]
    assert found.top_logprobs == pytest.approx([float(raw[i]) for i in (0, 1, 2)])
    [found] = third.logprobs
    assert (found.rank, found.top_ids) == (1, ())


def test_no_more_logprobs_than_tokens() -> None:
    [token] = sampled(LOGITS[None], running(temperature=0.0, logprobs=20))
    [found] = token.logprobs
    assert len(found.top_ids) == VOCAB


# --- what is remembered -----------------------------------------------------------------


def test_chunks_bring_generated_tokens() -> None:
    state = running(prompt=(1, 2, 3))
    state.take(Chunk("r", 3, (4,), (0,), num_rows=1))
    state.take(Chunk("r", 4, (5,), (0,), num_rows=1))
    assert state.generated == [4, 5]
    state.take(Chunk("r", 4, (5,), (0,), num_rows=1))  # computed again after a failure
    assert state.generated == [4, 5]
    again = running(prompt=(1, 2, 3))
    again.take(Chunk("r", 0, (1, 2), (0,), num_rows=0))
    assert again.generated == []
    again.take(Chunk("r", 2, (3, 4, 5), (0,), num_rows=1))
    assert again.generated == [4, 5]


def test_counts_follow_the_answer_wherever_its_tokens_are_known() -> None:
    """Sampled ones are counted on the device at once; a chunk that shows them counts nothing."""
    state = running(prompt=(1, 2, VOCAB + 3), generated=(5,), repetition_penalty=1.1)
    state.slot = 1
    counts = TokenCounts(2, VOCAB, torch.device("cpu"))
    counts.in_answer[1] = 7  # left by the request before
    counts.start(state)
    counts.take(state)
    assert counts.in_prompt[1].nonzero()[:, 0].tolist() == [1, 2]
    assert counts.in_answer[1].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    counts.add([state], torch.tensor([1]), torch.tensor([5]))
    state.take(Chunk("r", 4, (PENDING,), (0,), num_rows=1))
    counts.take(state)
    assert counts.in_answer[1].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert counts.in_answer[0].sum() == 0
