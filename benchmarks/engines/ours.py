"""This project's engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines import Request
from sensorium import LLM, SamplingParams

OPTIONS = {
    "load_format": "dummy",
    "dtype": "bfloat16",
    "max_model_len": 8192,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "gpu_memory_utilization": 0.85,
}


class Sensorium:
    """``LLM``; ``options`` replace some of ``OPTIONS``."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.llm = LLM(str(folder), **(OPTIONS | dict(options)))

    def run(self, requests: Sequence[Request], out_len: int) -> list[int]:
        """How many tokens each request got."""
        prompts: list[Any] = [
            {"prompt" if isinstance(request.prompt, str) else "prompt_token_ids": request.prompt}
            | ({"multi_modal_data": request.media} if request.media else {})
            for request in requests
        ]
        sampling = SamplingParams(
            temperature=0.0, repetition_penalty=1.0, max_tokens=out_len, ignore_eos=True
        )
        outputs = self.llm.generate(prompts, sampling, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]
