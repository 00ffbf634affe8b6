"""Sampling parameters alone and in pairs, through the whole engine, token by token.

Every combination is a request of one batch, with chunked prefill, prefix cache and several
sequences a request around it. transformers reads each prompt with the engine's answer behind it;
its logits, after its own processors, must have the engine's token as their best, or among those
that can be drawn.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from greedy import TIE
from tiny_checkpoints import make_llama
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers import generation as theirs

from sensorium import LLM, CompletionOutput, RequestOutput, SamplingParams
from sensorium.engine.admission import bad_word_ids
from sensorium.tokenizer import Tokenizer

PROMPT = [9, 40, 51, 300, 12, 7, 88, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51]
MAX_TOKENS, VOCAB = 8, 384
WORDS = ["x", "yes"]
Processor = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Option:
    """Parameters, and what they are in transformers, if they change logits."""

    params: dict[str, Any]
    processor: Processor | None = None


@dataclass(frozen=True)
class Made:
    """A checkpoint whose greedy answer meets a stop token and an end of text.

    Attributes:
        options: in the order in which they apply.
    """

    folder: Path
    reference: Any
    eos: tuple[int, ...]
    options: dict[str, Option]


def make_options(folder: Path, stop: int, free: Sequence[int]) -> dict[str, Option]:
    """Options that change something of ``free``, what is answered without any."""
    tokenizer = Tokenizer.load(folder)
    bias = {free[1]: -8.0, stop: 2.0, 70: 3.0}
    allowed = [i for i in range(4, 300) if i != free[1]]
    words = [*WORDS, tokenizer.decode([free[0]]).strip()]
    word_ids = [[*ids] for ids in bad_word_ids(tokenizer, words)]

    def penalised(ids: Tensor, logits: Tensor) -> Tensor:
        counts = torch.bincount(ids[0, len(PROMPT) :], minlength=VOCAB)
        return logits - 1.5 * counts - 2.0 * (counts > 0)

    return {
        "bias": Option(
            {"logit_bias": bias},
            theirs.SequenceBiasLogitsProcessor([[[i], value] for i, value in bias.items()]),
        ),
        "allowed": Option(
            {"allowed_token_ids": allowed},
            theirs.PrefixConstrainedLogitsProcessor(lambda batch, ids: allowed, 1),
        ),
        "bad words": Option({"bad_words": words}, theirs.NoBadWordsLogitsProcessor(word_ids)),
        "min tokens": Option({"min_tokens": 5}),
        "stop": Option({"stop_token_ids": [stop]}),
        "ignore eos": Option({"ignore_eos": True}),
        "repetition": Option(
            {"repetition_penalty": 4.0}, theirs.RepetitionPenaltyLogitsProcessor(4.0)
        ),
        "penalties": Option({"presence_penalty": 2.0, "frequency_penalty": 1.5}, penalised),
        "temperature": Option({"temperature": 2.0, "seed": 5}),
        "top k": Option({"top_k": 3}, theirs.TopKLogitsWarper(3)),
        "top p": Option({"top_p": 0.7}, theirs.TopPLogitsWarper(0.7)),
        "min p": Option({"min_p": 0.2}, theirs.MinPLogitsWarper(0.2)),
        "logprobs": Option({"logprobs": 3}),
        "prompt logprobs": Option({"prompt_logprobs": 2}),
        "n": Option({"n": 2}),
        "no text": Option({"detokenize": False}),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = make_llama(tmp_path_factory.mktemp("llama"), seed=5)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = list(PROMPT)
    with torch.inference_mode():
        for _ in range(MAX_TOKENS):
            ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
    free = ids[len(PROMPT) :]
    assert len({free[0], free[1], free[2], free[4]}) == 4, "another seed: tokens repeat too early"
    stop, eos = free[2], (2, free[4])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(eos)}))
    return Made(folder, reference, eos, make_options(folder, stop, free))


def combinations(options: dict[str, Option]) -> list[tuple[str, ...]]:
    pairs = itertools.combinations(options, 2)
    apart = [p for p in pairs if options[p[0]].params.keys().isdisjoint(options[p[1]].params)]
    return [(), *((name,) for name in options), *apart]


def asked(names: Sequence[str], options: dict[str, Option]) -> SamplingParams:
    """Greedy, unless one of the names draws."""
    params: dict[str, Any] = {"temperature": 0.0, "max_tokens": MAX_TOKENS}
    if {"top k", "top p", "min p"} & set(names):
        params |= {"temperature": 3.0, "seed": 11}
    for name in names:
        params |= options[name].params
    return SamplingParams(**params)


@pytest.fixture(scope="module")
def answers(made: Made) -> list[tuple[tuple[str, ...], SamplingParams, RequestOutput]]:
    names = combinations(made.options)
    params = [asked(some, made.options) for some in names]
    options = {"dtype": "float32", "max_model_len": 64, "max_num_batched_tokens": 32}
    with LLM(made.folder, **options, max_num_seqs=24, page_size=4) as llm:
        outputs = llm.generate([PROMPT] * len(names), params, use_tqdm=False)
        llm.check_integrity()
    return list(zip(names, params, outputs, strict=True))


def processed(
    made: Made, names: Sequence[str], params: SamplingParams, ids: list[int], logits: Tensor
) -> Tensor:
    """What transformers draws the token behind ``ids`` from."""
    row, before = logits[None].clone(), torch.tensor([ids])
    if params.min_tokens:
        ends = [*made.eos, *(params.stop_token_ids or ())]
        late = theirs.MinNewTokensLengthLogitsProcessor(len(PROMPT), params.min_tokens, ends)
        row = late(before, row)
    for name, option in made.options.items():
        if name == "temperature" and not params.greedy:
            row = theirs.TemperatureLogitsWarper(params.temperature)(before, row)
        if option.processor is not None and name in names:
            row = option.processor(before, row)
    return row[0]


def check_end(made: Made, params: SamplingParams, answer: CompletionOutput) -> None:
    """The answer ends where it must and nowhere else."""
    ends = {*(params.stop_token_ids or ()), *(() if params.ignore_eos else made.eos)}
    for i, token in enumerate(answer.token_ids):
        is_last = i == len(answer.token_ids) - 1
        may_stop = token in ends and i >= params.min_tokens
        assert is_last == (may_stop or i == MAX_TOKENS - 1)
        if is_last:
            assert answer.finish_reason == ("stop" if may_stop else "length")


def test_tokens_are_those_of_transformers_processors(made: Made, answers: Any) -> None:
    num_tokens = 0
    for names, params, output in answers:
        assert len(output.outputs) == params.n
        for answer in output.outputs:
            check_end(made, params, answer)
            ids = [*PROMPT, *answer.token_ids]
            with torch.inference_mode():
                logits = made.reference(torch.tensor([ids])).logits[0]
            for i, token in enumerate(answer.token_ids, len(PROMPT)):
                row = processed(made, names, params, ids[:i], logits[i - 1])
                label = f"{' + '.join(names)}, token {i - len(PROMPT)}"
                assert row[token].isfinite(), label
                if params.greedy:
                    assert float(row.max() - row[token]) <= TIE, label
                num_tokens += 1
    assert num_tokens > 500


def test_what_is_reported_beside_the_tokens(made: Made, answers: Any) -> None:
    with torch.inference_mode():
        raw = made.reference(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    for names, _, output in answers:
        assert (output.prompt_logprobs is not None) == ("prompt logprobs" in names), names
        for place, entry in enumerate(output.prompt_logprobs or ()):
            assert (entry is None) == (place == 0)
            for token, found in (entry or {}).items():
                assert found.logprob == pytest.approx(float(raw[place - 1, token]), abs=1e-4)
        for answer in output.outputs:
            assert (answer.logprobs is not None) == ("logprobs" in names), names
            assert len(answer.logprobs or answer.token_ids) == len(answer.token_ids)
            assert bool(answer.text) <= ("no text" not in names), names


def test_each_parameter_shows(made: Made, answers: Any) -> None:
    """An option that were ignored would leave every answer as it is without the option."""
    tokens = {names: [a.token_ids for a in output.outputs] for names, _, output in answers}
    shows = {
        name
        for names in tokens
        for name in names
        if tokens[names] != tokens[tuple(other for other in names if other != name)]
    }
    assert set(made.options) - shows == {"logprobs", "prompt logprobs", "no text"}
    assert tokens["n",] == tokens[()] * 2
