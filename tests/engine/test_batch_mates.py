"""On random float32 weights a request's answer doesn't depend on who is computed beside it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from greedy import TIE
from tiny_checkpoints import make_llama
from transformers import AutoModelForCausalLM

from sensorium import LLM, SamplingParams

VOCAB = 290


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"), seed=8)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def drawn(random: Random) -> tuple[list[int], SamplingParams]:
    """A prompt and how to go on, greedy or by a seed."""
    prompt = [random.randrange(3, VOCAB) for _ in range(random.choice([1, 5, 16, 17, 40, 90]))]
    options: dict[str, Any] = {"max_tokens": random.choice([1, 6, 15]), "ignore_eos": True}
    if random.random() < 0.5:
        return prompt, SamplingParams(temperature=0.0, repetition_penalty=1.0, **options)
    return prompt, SamplingParams(
        temperature=random.choice([0.7, 1.3]),
        top_p=random.choice([1.0, 0.9]),
        top_k=random.choice([0, 20]),
        frequency_penalty=random.choice([0.0, 0.4]),
        repetition_penalty=random.choice([1.0, 1.2]),
        seed=random.randrange(1000),
        **options,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [{}, {"max_num_batched_tokens": 24, "max_num_seqs": 5}, {"enable_prefix_caching": False}],
    ids=["defaults", "small steps", "no prefix cache"],
)
def test_alone_or_in_company(
    folder: Path, reference: Any, seed: int, options: dict[str, Any]
) -> None:
    random = Random(seed)
    asked = [drawn(random) for _ in range(12)]
    asked += [(asked[0][0] + [7, 8], asked[1][1]), asked[2]]  # some share a beginning
    common = {"dtype": "float32", "max_model_len": 128, "engine_process": False}
    with LLM(folder, **common, max_num_seqs=1) as llm:
        alone = [llm.generate([p], s, use_tqdm=False)[0].outputs[0].token_ids for p, s in asked]
    with LLM(folder, **common, **options) as llm:
        prompts, params = [p for p, _ in asked], [s for _, s in asked]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        llm.check_integrity()
    for (prompt, sampling), one, output in zip(asked, alone, outputs, strict=True):
        other = output.outputs[0].token_ids
        if one == other:
            continue
        assert sampling.temperature == 0.0, "a seeded answer changed with its company"
        first = next(i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
        with torch.inference_mode():
            logits = reference(torch.tensor([[*prompt, *one[:first]]])).logits[0, -1]
        assert abs(float(logits[one[first]] - logits[other[first]])) <= TIE
