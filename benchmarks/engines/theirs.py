"""transformers' ``generate``, text alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM


class Transformers:
    """A model of random weights in bfloat16; all requests of a call as one batch."""

    def __init__(self, args: Any) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(args.seed)
        with torch.device(self.device):
            config = AutoConfig.from_pretrained(args.model)
            self.model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def run(self, requests: list[dict[str, Any]], out_len: int) -> list[int]:
        """How many tokens each request got."""
        assert not any(request["images"] for request in requests), "text alone"
        ids = torch.tensor([request["ids"] for request in requests], device=self.device)
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=out_len,
            min_new_tokens=out_len,
            pad_token_id=0,
        )
        torch.cuda.synchronize() if self.device == "cuda" else None
        return [out.shape[1] - ids.shape[1]] * len(requests)
