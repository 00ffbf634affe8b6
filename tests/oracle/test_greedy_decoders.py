"""Greedy tokens of every decoder family equal transformers', with each family's peculiarities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from greedy import Comparison, Remembered
from text_checkpoints import CASES, load_reference, make_text

from sensorium import LLM, SamplingParams
from sensorium.ops import extension

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
#: Of prompts that the prefix cache holds: what differs there shows in the tokens behind them.
AGAIN = replace(GREEDY, max_tokens=4)
#: Room for what all prompts leave in the prefix cache.
MEMORY = {"kv_cache_memory_bytes": 2**25}
#: The attention backend that is forced, if any, and options.
ENGINES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "one at a time, no prefix cache": (
        None,
        {"max_num_seqs": 1, "enable_prefix_caching": False},
    ),
    "mixed batches": ("paged", {}),
    "mixed batches, in plain torch": ("reference", {}),
    "chunks of 7, small pages": (
        None,
        {"max_num_batched_tokens": 7, "page_size": 4, "max_num_seqs": 4},
    ),
}


def prompts(longest: int) -> list[list[int]]:
    """Of many lengths, some with a common beginning, the longest first."""
    rng = np.random.default_rng(0)
    common = rng.integers(3, 290, longest // 3).tolist()
    lengths = (longest, longest // 2, 33, 16, 15, 1)
    alone = [rng.integers(3, 290, n).tolist() for n in lengths if n <= longest]
    return alone + [common + rng.integers(3, 290, n).tolist() for n in (1, 9)]


#: A case, its checkpoint, and token ids → (ids, vocabulary): the same weights in transformers.
Made = tuple[str, Path, Callable[[tuple[int, ...]], torch.Tensor]]


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    name = request.param
    folder = make_text(tmp_path_factory.mktemp("checkpoint"), name, seed=3)
    reference, remembered = load_reference(folder, name), Remembered()

    @torch.inference_mode()
    def logits_of(ids: tuple[int, ...]) -> torch.Tensor:
        return remembered.get(ids, lambda: reference(torch.tensor([ids])).logits[0])

    return name, folder, logits_of


@pytest.mark.parametrize(("backend", "options"), ENGINES.values(), ids=ENGINES)
def test_greedy_tokens_equal_transformers(
    made: Made,
    backend: str | None,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, folder, logits_of = made
    if backend is not None:
        monkeypatch.setenv("SENSORIUM_ATTENTION", backend)
    if backend == "paged" and (reason := extension.lack(torch.device("cpu"), torch.float32)):
        pytest.skip(f"no extension: {reason}")
    length = CASES[name].max_model_len
    comparison, distinct = Comparison(), set()
    options = {"device": "cpu", "dtype": "float32", "max_model_len": length, **MEMORY, **options}
    with LLM(folder, **options) as llm:
        first = llm.generate(prompts(length - 30), GREEDY, use_tqdm=False)
        again = llm.generate(prompts(length - 30), AGAIN, use_tqdm=False)
        llm.check_integrity()
    cached = sum(output.num_cached_tokens for output in again)
    assert (cached > 0) == options.get("enable_prefix_caching", True)
    params = [GREEDY] * len(first) + [AGAIN] * len(again)
    for output, wanted in zip((*first, *again), params, strict=True):
        ids = (*output.prompt_token_ids, *output.outputs[0].token_ids)
        answer = output.outputs[0].token_ids
        assert len(answer) == wanted.max_tokens
        logits = logits_of(ids)[-len(answer) - 1 : -1]
        comparison.add(logits, answer, f"{len(ids)} tokens")
        distinct.update(answer)
    assert len(distinct) > 20, "the answers are too alike to tell two models apart"
    print(f"{name}: {comparison.report()}")
