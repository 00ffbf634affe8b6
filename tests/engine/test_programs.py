"""On the CPU, decoding by recorded programs answers as decoding without them does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from meeting import let_requests_meet
from text_checkpoints import make_text
from tiny_checkpoints import make_llama

from sensorium import LLM, SamplingParams
from sensorium.ops import extension

pytestmark = pytest.mark.skipif(
    extension.lack(torch.device("cpu"), torch.float32) is not None, reason="no extension"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"), seed=4)


#: 16 pages of 16 tokens in 3 layers of 2 heads of 16: some sequences are preempted.
FEW_PAGES = {"kv_cache_memory_bytes": 16 * 2 * 3 * 2 * 16 * 16 * 4}


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, 256, n).tolist() for n in (1, 2, 15, 16, 17, 40, 100, 3, 31)]


def params() -> list[SamplingParams]:
    """Greedy and drawn, of different lengths, so that steps shrink through all sizes."""
    return [
        SamplingParams(
            temperature=0.8 if i % 3 else 0.0,
            seed=i,
            presence_penalty=0.3 if i % 4 == 1 else 0.0,
            max_tokens=10 + 8 * i,
            ignore_eos=True,
            logprobs=1,
        )
        for i in range(len(prompts()))
    ]


def answers(folder: Path, **options: Any) -> tuple[list[Any], dict[int, bool]]:
    """And which sizes were decoded in a program; {} without any."""
    options |= {"device": "cpu", "dtype": "float32", "max_model_len": 256}
    with LLM(folder, **options) as llm:
        if "kv_cache_memory_bytes" in options:
            let_requests_meet(llm, len(prompts()))
        outputs = llm.generate(prompts(), params(), use_tqdm=False)
        llm.check_integrity()
        recorded = llm._engine._client._core.executor._forward._recorded  # type: ignore[attr-defined]
        sizes = {} if recorded is None else recorded._programs
    return outputs, {size: program is not None for size, program in sizes.items()}


def token_ids(outputs: list[Any]) -> list[Any]:
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize(
    "options", [{}, {"max_num_seqs": 3}, {"max_num_batched_tokens": 16}, FEW_PAGES]
)
def test_answers_are_those_without_programs(folder: Path, options: dict[str, Any]) -> None:
    recorded, sizes = answers(folder, **options)
    eager, none = answers(folder, enforce_eager=True, **options)
    assert none == {}
    assert {1, 2} <= sizes.keys()
    assert all(sizes.values())
    assert token_ids(recorded) == token_ids(eager)
    for a, b in zip(recorded, eager, strict=True):
        found, wanted = (output.outputs[0].cumulative_logprob for output in (a, b))
        assert found == pytest.approx(wanted, abs=1e-3)
    preempted = any(output.metrics.num_preemptions for output in recorded)
    assert preempted == (options is FEW_PAGES)


def test_a_step_larger_than_any_program_is_computed_without(folder: Path) -> None:
    few = [{"prompt_token_ids": [5, i]} for i in range(3, 73)]
    sampling = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 64}
    found = []
    for eager in (False, True):
        with LLM(folder, enforce_eager=eager, **options) as llm:
            outputs = llm.generate(few, sampling, use_tqdm=False)
        found.append(token_ids(outputs))
    assert found[0] == found[1]


def test_layers_that_no_program_knows_are_computed_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma's gate is a GELU of plain torch."""
    caplog.set_level("INFO", "sensorium.runner")
    gemma = make_text(tmp_path, "gemma 2")
    recorded, sizes = answers(gemma)
    assert sizes
    assert not any(sizes.values())
    assert "is not recorded: it calls aten::gelu" in caplog.text
    eager, _ = answers(gemma, enforce_eager=True)
    assert token_ids(recorded) == token_ids(eager)


FIRST_STEP = """
import sys
from sensorium import LLM, SamplingParams

with LLM(sys.argv[1], device="cpu", dtype="float32", max_model_len=64) as llm:
    llm.generate("hello", SamplingParams(max_tokens=2, ignore_eos=True), use_tqdm=False)
    recorded = llm._engine._client._core.executor._forward._recorded
    print(bool(recorded._programs), "torch._dynamo" in sys.modules)
"""


def test_recording_imports_no_compiler(
    folder: Path, tmp_path: Path, popen: type[subprocess.Popen[str]]
) -> None:
    """torch's takes seconds, which the first answer would wait for."""
    script = tmp_path / "script.py"
    script.write_text(FIRST_STEP)
    asked = popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True)
    assert asked.communicate()[0].split() == ["True", "False"]
