"""What oracles of families with images share: engines, prompts, and how answers are held.

A family's own ``Comparer`` knows its reference; it tells the logits behind an answer.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from attention_backends import DECODER, TOWER, Attention
from family_helpers import random_image
from greedy import Comparison
from PIL import Image

from sensorium import LLM, AsyncEngine, RequestOutput, SamplingParams

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=12, ignore_eos=True)
#: Of prompts that the prefix cache holds: what differs there shows in the tokens behind them.
AGAIN = replace(GREEDY, max_tokens=4)
ENGINES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "chunks of 16": {"max_num_batched_tokens": 16},
    "no prefix cache, chunks of 64": {
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 64,
    },
    "one at a time": {"max_num_seqs": 1},
}
#: A prompt, and the (height, width) of its images.
Prompt = tuple[str, list[tuple[int, int]]]


class Comparer(Protocol):
    """A reference on a folder's weights."""

    def logits(self, prompt: Prompt, output: RequestOutput) -> torch.Tensor:
        """(answer, vocabulary): the reference's, each row before its token."""


def images(sizes: list[tuple[int, int]]) -> list[Any]:
    """(height, width, 3) uint8 each. One image in three occurs in several prompts."""
    return [random_image(*size, seed=size[0] % 3) for size in sizes]


def given(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Prompts as a caller gives them."""
    return [
        {"prompt": text, **({"multi_modal_data": {"image": images(sizes)}} if sizes else {})}
        for text, sizes in prompts
    ]


def compare(
    reference: Comparer, prompts: Sequence[Prompt], outputs: Sequence[RequestOutput]
) -> Comparison:
    """Answers to ``prompts``, in this order."""
    comparison = Comparison()
    for prompt, output in zip(prompts, outputs, strict=True):
        logits = reference.logits(prompt, output)
        comparison.add(logits, output.outputs[0].token_ids, prompt[0])
    return comparison


def answer_twice(
    folder: Path, prompts: Sequence[Prompt], options: dict[str, Any], attention: Attention
) -> list[RequestOutput]:
    """Answers on the CPU, then the same again, the second ones with pages from the prefix cache."""
    with LLM(folder, device="cpu", dtype="float32", **options) as llm:
        first = llm.generate(given(prompts), GREEDY, use_tqdm=False)
        again = llm.generate(given(prompts), AGAIN, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER)
    cached = sum(output.num_cached_tokens for output in again)
    assert (cached > 0) == options.get("enable_prefix_caching", True)
    return [*first, *again]


def check_on_the_gpu(
    folder: Path, reference: Comparer, prompts: Sequence[Prompt], **options: Any
) -> None:
    """The engine in float32 on CUDA, the reference on the CPU; all prompts come twice."""
    asked = [*prompts, *prompts]
    print(compare(reference, asked, answer_on_the_gpu(folder, asked, **options)).report())


def answer_by_the_server(
    folder: Path, questions: Sequence[Prompt], **options: Any
) -> list[RequestOutput]:
    """Answers to chats, each one question with images by data URL, sent at once."""
    # Machines with a GPU need no HTTP client for the rest.
    from served import served

    from sensorium_server_openai.engine_port import EnginePort

    def part(pixels: Any) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    def ask(question: Prompt) -> Any:
        parts = [{"type": "text", "text": question[0]}, *map(part, images(question[1]))]
        body = {
            "messages": [{"role": "user", "content": parts}],
            "temperature": 0.0,
            "repetition_penalty": 1.0,
            "max_completion_tokens": GREEDY.max_tokens,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        answer = server.post("/v1/chat/completions", body).json()
        (choice,) = answer["choices"]
        completion = SimpleNamespace(token_ids=choice["token_ids"])
        return SimpleNamespace(prompt_token_ids=answer["prompt_token_ids"], outputs=[completion])

    with (
        AsyncEngine(str(folder), device="cpu", dtype="float32", **options) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
        ThreadPoolExecutor(len(questions)) as pool,
    ):
        return list(pool.map(ask, questions))


def answer_on_the_gpu(
    folder: Path, prompts: Sequence[Prompt], **options: Any
) -> list[RequestOutput]:
    """Answers in float32 on CUDA."""
    options = {"dtype": "float32", "kv_cache_memory_bytes": 2**30, **options}
    with LLM(folder, device="cuda", **options) as llm:
        outputs = llm.generate(given(prompts), GREEDY, use_tqdm=False)
        llm.check_integrity()
    return outputs


def check_bfloat16_on_the_gpu(
    folder: Path,
    prompts: Sequence[Prompt],
    reference: Callable[[Path, torch.dtype], Comparer],
    attention: Attention,
    max_model_len: int,
) -> None:
    """Tokens on CUDA are the best within twice what bfloat16 does to the reference itself."""
    references = [reference(folder, dtype) for dtype in (torch.float32, torch.bfloat16)]
    options: dict[str, Any] = {"max_num_batched_tokens": 64, "max_model_len": max_model_len}
    options["engine_process"] = False  # the ops are counted here
    outputs = answer_on_the_gpu(folder, prompts, dtype="bfloat16", **options)
    attention.assert_ran(*DECODER, *TOWER, device="cuda")
    gaps, errors = [], []
    for prompt, output in zip(prompts, outputs, strict=True):
        logits, near = (reference.logits(prompt, output) for reference in references)
        answer = torch.tensor(output.outputs[0].token_ids)
        chosen = logits.gather(1, answer[:, None])[:, 0]
        gaps.append(float((logits.amax(-1) - chosen).max()))
        errors.append(float((logits - near.float()).abs().max()))
    print(f"furthest from the best {max(gaps):.3f}, bfloat16's own error {max(errors):.3f}")
    assert max(gaps) < 2 * max(errors)
