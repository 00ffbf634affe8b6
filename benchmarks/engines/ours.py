"""This project's engine."""

from __future__ import annotations

import json
from typing import Any

from sensorium import LLM, SamplingParams


class Sensorium:
    """``LLM`` with dummy weights in bfloat16."""

    def __init__(self, args: Any) -> None:
        options = {
            "load_format": "dummy",
            "dtype": "bfloat16",
            "seed": args.seed,
            "enforce_eager": args.enforce_eager,
            "max_model_len": args.max_model_len,
            "max_num_seqs": args.max_num_seqs,
            "gpu_memory_utilization": args.gpu_mem,
            "max_num_batched_tokens": 8192,
        }
        self.detokenize = not args.no_detokenize
        self.llm = LLM(args.model, **(options | json.loads(args.kw)))

    def run(self, requests: list[dict[str, Any]], out_len: int) -> list[int]:
        """How many tokens each request got."""
        prompts: list[Any] = []
        for request in requests:
            prompt: dict[str, Any] = {"prompt_token_ids": list(request["ids"])}
            if request["images"]:
                prompt["multi_modal_data"] = {"image": list(request["images"])}
            prompts.append(prompt)
        sampling = SamplingParams(
            temperature=0.0,
            repetition_penalty=1.0,
            max_tokens=out_len,
            ignore_eos=True,
            detokenize=self.detokenize,
        )
        outputs = self.llm.generate(prompts, sampling, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]
