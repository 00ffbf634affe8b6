"""Embedding, log-probabilities of prompts, priorities and several answers, from the outside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import make_qwen2
from transformers import AutoModelForCausalLM

from sensorium import LLM, AsyncEngine, ConfigError, LimitError, RequestError, SamplingParams

PROMPTS = [[5, 6, 7], list(range(3, 60)), [9] * 20]
GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2(tmp_path_factory.mktemp("qwen2"), seed=5)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def llm(folder: Path) -> Any:
    with LLM(folder, dtype="float32", max_model_len=256) as llm:
        yield llm
        llm.check_integrity()


@pytest.mark.parametrize(
    "options", [{"task": "embed"}, {"runner": "pooling"}, {"task": "embed", "engine_process": True}]
)
def test_a_prompt_becomes_its_last_hidden_state(
    folder: Path, reference: Any, options: dict[str, Any]
) -> None:
    with LLM(folder, dtype="float32", max_num_batched_tokens=16, **options) as llm:
        whole = llm.encode(PROMPTS, use_tqdm=False)
        unit = llm.embed(PROMPTS, use_tqdm=False)
        with pytest.raises(RequestError, match="loaded to embed"):
            llm.generate("hello", use_tqdm=False)
        bad = llm.embed([[1], [10**9]], use_tqdm=False, on_error="return")
        llm.check_integrity()
    assert isinstance(bad[1].error, RequestError)
    assert bad[0].error is None
    for prompt, raw, normed in zip(PROMPTS, whole, unit, strict=True):
        with torch.inference_mode():
            states = reference.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        torch.testing.assert_close(raw.outputs.data, states, rtol=0, atol=1e-4)
        expected = torch.nn.functional.normalize(states, dim=0)
        torch.testing.assert_close(
            torch.tensor(normed.outputs.embedding), expected, rtol=0, atol=1e-5
        )
        assert raw.prompt_token_ids == tuple(prompt)
        assert raw.finished
    assert unit[1].num_cached_tokens > 0, "embedded before: its pages are known"


def test_tasks_that_contradict_each_other_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="contradict"):
        LLM(folder, task="generate", runner="pooling")
    with pytest.raises(ConfigError, match="task is 'rank'"):
        LLM(folder, task="rank")


def test_an_engine_that_generates_does_not_embed(llm: LLM) -> None:
    with pytest.raises(RequestError, match="loaded to generate"):
        llm.embed("hello", use_tqdm=False)


@pytest.mark.parametrize("num_best", [0, 3])
def test_log_probabilities_of_the_prompt(llm: LLM, reference: Any, num_best: int) -> None:
    sampling = SamplingParams(temperature=0.0, max_tokens=2, prompt_logprobs=num_best, n=2)
    for prompt in PROMPTS:
        [output] = llm.generate([prompt], sampling, use_tqdm=False)
        assert output.prompt_logprobs is not None
        assert output.prompt_logprobs[0] is None
        assert len(output.prompt_logprobs) == len(prompt)
        with torch.inference_mode():
            expected = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
        for place in range(1, len(prompt)):
            entry = output.prompt_logprobs[place]
            assert entry is not None
            row = expected[place - 1]
            assert prompt[place] in entry
            assert len(entry) in (num_best, num_best + 1)
            for token, reported in entry.items():
                assert reported.logprob == pytest.approx(float(row[token]), abs=1e-4)
            best = {int(i) for i in row.topk(num_best).indices} if num_best else set()
            assert len(set(entry) - best - {prompt[place]}) <= 1, "a tie may fall the other way"
    assert llm.generate([PROMPTS[0]], GREEDY, use_tqdm=False)[0].prompt_logprobs is None


def test_log_probabilities_of_a_prompt_whose_pages_are_cached(llm: LLM, reference: Any) -> None:
    """They cost the prompt again: a cached page holds no logits."""
    prompt = [11, *range(40, 90)]
    scored = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, ignore_eos=True)
    with torch.inference_mode():
        rows = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
    expected = [float(rows[i, token]) for i, token in enumerate(prompt[1:])]
    llm.generate([prompt], GREEDY, use_tqdm=False)
    assert llm.generate([prompt], GREEDY, use_tqdm=False)[0].num_cached_tokens >= 48
    outputs = llm.generate([prompt] * 2, [GREEDY, scored], use_tqdm=False)
    assert (outputs[0].num_cached_tokens >= 48, outputs[1].num_cached_tokens) == (True, 0)
    assert outputs[1].prompt_logprobs is not None
    found = [
        entry[t].logprob
        for entry, t in zip(outputs[1].prompt_logprobs, prompt, strict=True)
        if entry
    ]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("cached", [False, True])
def test_a_prompt_as_long_as_the_context(folder: Path, reference: Any, cached: bool) -> None:
    """It is scored and answered by one token, which needs no place in the cache."""
    prompt = [int(i) for i in torch.randint(3, 250, (64,), generator=torch.Generator())]
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt])).logits[0]
    options: dict[str, Any] = {"dtype": "float32", "max_model_len": 64, "page_size": 16}
    with LLM(folder, **options, kv_cache_memory_bytes=2**20) as llm:
        if cached:
            llm.generate([prompt[:-4]], GREEDY, use_tqdm=False)
        for max_tokens in (1, 0):
            sampling = SamplingParams(
                temperature=0.0, max_tokens=max_tokens, prompt_logprobs=0, ignore_eos=True
            )
            plain = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
            outputs = llm.generate([prompt] * 2, [sampling, plain], use_tqdm=False)
            for output in outputs:
                expected = [int(logits[-1].argmax())][:max_tokens]
                assert list(output.outputs[0].token_ids) == expected
                assert output.outputs[0].finish_reason == "length"
            assert outputs[0].prompt_logprobs is not None
            assert len(outputs[0].prompt_logprobs) == 64
            last = outputs[0].prompt_logprobs[63]
            assert last is not None
            score = float(logits[62].log_softmax(-1)[prompt[63]])
            assert last[prompt[63]].logprob == pytest.approx(score, abs=1e-4)
        for refused in (2, None):
            sampling = SamplingParams(max_tokens=refused)
            with pytest.raises(LimitError, match="context holds 64, at least one of them for the"):
                llm.generate([prompt], sampling, use_tqdm=False)
        with pytest.raises(LimitError, match=r"has 65 tokens; the context holds 64\."):
            llm.generate([[*prompt, 5]], SamplingParams(max_tokens=1), use_tqdm=False)
        llm.check_integrity()
    with LLM(folder, **options, task="embed") as llm:
        [output] = llm.encode([prompt], use_tqdm=False)
        with torch.inference_mode():
            states = reference.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        torch.testing.assert_close(output.outputs.data, states, rtol=0, atol=1e-4)
        with pytest.raises(LimitError, match=r"has 65 tokens; the context holds 64\."):
            llm.encode([[*prompt, 5]], use_tqdm=False)


def test_no_tokens_wanted_is_a_prompt_scored(llm: LLM) -> None:
    """``max_tokens=0`` computes the prompt and nothing else, for each of ``n`` answers."""
    sampling = SamplingParams(max_tokens=0, n=2, prompt_logprobs=1, logprobs=1, stop="x")
    outputs = llm.generate(PROMPTS, [sampling, GREEDY, sampling], use_tqdm=False)
    for output in (outputs[0], outputs[2]):
        assert len(output.prompt_logprobs or ()) == len(output.prompt_token_ids)
        for answer in output.outputs:
            assert (answer.text, list(answer.token_ids)) == ("", [])
            assert (answer.finish_reason, list(answer.logprobs or ())) == ("length", [])
    assert len(outputs[1].outputs[0].token_ids) == 4


@pytest.mark.parametrize("seed", [3, -4, 2**63 - 3])
def test_n_answers_are_those_of_n_seeds(llm: LLM, seed: int) -> None:
    """The i-th of n answers is the one that the seed i further on gives alone.

    -1 stands for no seed and is passed over; behind the last seed comes the first.
    """
    prompt = [int(i) for i in range(30, 130)]
    sampling = SamplingParams(temperature=0.9, n=6, seed=seed, max_tokens=5, ignore_eos=True)
    seeds = {-4: [-4, -3, -2, 0, 1, 2], 3: [3, 4, 5, 6, 7, 8]}.get(
        seed, [2**63 - 3, 2**63 - 2, 2**63 - 1, -(2**63), -(2**63) + 1, -(2**63) + 2]
    )
    [output] = llm.generate([prompt], sampling, use_tqdm=False)
    alone = [
        llm.generate(
            [prompt],
            SamplingParams(temperature=0.9, seed=own, max_tokens=5, ignore_eos=True),
            use_tqdm=False,
        )[0]
        for own in seeds
    ]
    assert [a.token_ids for a in output.outputs] == [o.outputs[0].token_ids for o in alone]


async def test_lower_priorities_are_answered_first(folder: Path) -> None:
    async with AsyncEngine(folder, dtype="float32", max_num_seqs=1, max_model_len=256) as engine:
        order: list[str] = []

        async def ask(name: str, priority: int) -> None:
            async for _ in engine.generate(PROMPTS[1], GREEDY, name, priority=priority):
                if name not in order:
                    order.append(name)

        first = asyncio.create_task(ask("first", 0))
        while not order:
            await asyncio.sleep(0)
        await asyncio.gather(ask("low", 5), ask("high", -5), ask("middle", 0), first)
        assert order == ["first", "high", "middle", "low"]


def test_priorities_one_each(llm: LLM) -> None:
    outputs = llm.generate(PROMPTS, GREEDY, use_tqdm=False, priority=[2, 0, 1])
    assert len(outputs) == 3
    with pytest.raises(RequestError, match="3 prompts and 2 priorities"):
        llm.generate(PROMPTS, GREEDY, use_tqdm=False, priority=[1, 2])
    for wrong in ("1", 0.5):
        with pytest.raises(RequestError, match=rf"priority is {wrong!r}; it must be an integer"):
            llm.generate(PROMPTS[0], GREEDY, use_tqdm=False, priority=[wrong])  # type: ignore[list-item]
