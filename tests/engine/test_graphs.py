"""Decoding by captured graphs answers as decoding without them does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tokenizers import write_llama_like
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sensorium import LLM, SamplingParams

pytestmark = pytest.mark.gpu
VOCAB = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose heads the device's kernels take."""
    folder = tmp_path_factory.mktemp("llama-64")
    torch.manual_seed(4)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=VOCAB,
        max_position_embeddings=512,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        deviation = 0.1 if parameter.dim() == 1 else 2.0 * parameter.shape[-1] ** -0.5
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, deviation)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_llama_like(folder)
    return folder


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, 256, n).tolist() for n in (1, 2, 15, 16, 17, 40, 100, 200, 3, 300, 31)]


def answers(folder: Path, params: Any, **options: Any) -> list[Any]:
    with LLM(folder, max_model_len=512, gpu_memory_utilization=0.3, **options) as llm:
        outputs = llm.generate(prompts(), params, use_tqdm=False)
        llm.check_integrity()
    return [output.outputs[0] for output in outputs]


@pytest.mark.parametrize("options", [{}, {"max_num_seqs": 5}, {"max_num_batched_tokens": 32}])
def test_greedy_tokens_are_the_references_best(folder: Path, options: dict[str, Any]) -> None:
    """Within twice what bfloat16 does to the reference's own logits."""
    sampling = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
    found = answers(folder, sampling, **options)
    reference, half = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).cuda().eval()
        for dtype in (torch.float32, torch.bfloat16)
    )
    for prompt, answer in zip(prompts(), found, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *answer.token_ids]], device="cuda")
            logits, rounded = (m(ids).logits[0, len(prompt) - 1 : -1] for m in (reference, half))
        chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
        gap = float((logits.amax(-1) - chosen).max())
        assert gap < 2 * float((logits - rounded.float()).abs().max())


def test_sampled_tokens_are_those_without_graphs(folder: Path) -> None:
    """Penalties, seeds and log-probabilities among them; a tie may fall the other way."""
    params = [
        SamplingParams(
            temperature=0.8 if i % 3 else 0.0,
            seed=i,
            repetition_penalty=1.2 if i % 2 else 1.0,
            presence_penalty=0.3 if i % 4 == 1 else 0.0,
            max_tokens=24,
            ignore_eos=True,
            logprobs=2,
        )
        for i in range(len(prompts()))
    ]
    captured = answers(folder, params)
    eager = answers(folder, params, enforce_eager=True)
    same = sum(a.token_ids == b.token_ids for a, b in zip(captured, eager, strict=True))
    print(json.dumps({"same": same, "of": len(eager)}))
    assert same >= len(eager) - 3
    for a, b in zip(captured, eager, strict=True):
        first = [
            next(iter(logprobs.values())).logprob for logprobs in (a.logprobs[0], b.logprobs[0])
        ]
        assert first[0] == pytest.approx(first[1], abs=0.05)
