"""Greedy tokens of text models equal transformers', whatever the engine does around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_backends import DECODER, Attention, engines
from greedy import Comparison, Remembered
from tiny_checkpoints import make_llama, make_qwen2
from transformers import AutoModelForCausalLM

from sensorium import LLM, SamplingParams

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=12, ignore_eos=True)
#: Of prompts that the prefix cache holds: what differs there shows in the tokens behind them.
AGAIN = replace(GREEDY, max_tokens=8)
MAKERS: dict[str, Callable[..., Path]] = {"llama": make_llama, "qwen2": make_qwen2}
ENGINES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "chunks of 16": {"max_num_batched_tokens": 16},
    "chunks of 64": {"max_num_batched_tokens": 64},
    "no prefix cache": {"enable_prefix_caching": False},
    "whole prompts": {"enable_chunked_prefill": False, "max_num_batched_tokens": 16},
    "one at a time": {"max_num_seqs": 1},
    "small pages": {"page_size": 4},
    # 64 KiB is 85 pages of 3 layers × 2 heads × 16 × 16 floats: less than the prompts need.
    "few pages": {"kv_cache_memory_bytes": 32 * 2 * 3 * 2 * 16 * 16 * 4},
}


def prompts() -> list[list[int]]:
    """Of many lengths, some with a common beginning."""
    rng = np.random.default_rng(0)
    common = rng.integers(3, 290, 40).tolist()
    alone = [rng.integers(3, 290, n).tolist() for n in (1, 2, 15, 16, 17, 33, 100, 200)]
    return alone + [common + rng.integers(3, 290, n).tolist() for n in (1, 5, 30)]


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny checkpoint of each decoder."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param), seed=3)


@pytest.fixture(scope="module")
def logits_of(folder: Path) -> Callable[[tuple[int, ...]], torch.Tensor]:
    """Token ids → (ids, vocabulary): the same weights in transformers."""
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    remembered = Remembered()

    @torch.inference_mode()
    def logits_of(ids: tuple[int, ...]) -> torch.Tensor:
        return remembered.get(ids, lambda: reference(torch.tensor([ids])).logits[0])

    return logits_of


@engines(ENGINES, plain=("defaults", "chunks of 16"))
def test_greedy_tokens_equal_transformers(
    folder: Path,
    logits_of: Callable[[tuple[int, ...]], torch.Tensor],
    options: dict[str, Any],
    attention: Attention,
) -> None:
    comparison = Comparison()
    with LLM(folder, device="cpu", dtype="float32", max_model_len=256, **options) as llm:
        first = llm.generate(prompts(), GREEDY, use_tqdm=False)
        again = llm.generate(prompts(), AGAIN, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER)
    cached = sum(output.num_cached_tokens for output in again)
    # Where pages are few, whether one is left of the first round depends on the arrivals.
    few_pages = "kv_cache_memory_bytes" in options
    assert few_pages or (cached > 0) == options.get("enable_prefix_caching", True)
    for output in (*first, *again):
        ids = (*output.prompt_token_ids, *output.outputs[0].token_ids)
        answer = output.outputs[0].token_ids
        logits = logits_of(ids)[-len(answer) - 1 : -1]
        comparison.add(logits, answer, f"{len(ids)} tokens")
    print(comparison.report())
