"""transformers' ``generate``, text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engines import Request


class Transformers:
    """Random weights in bfloat16; all requests of a call, equally long, as one batch."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        if options:
            raise SystemExit(f"transformers takes no options; given are {', '.join(options)}")
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        config = AutoConfig.from_pretrained(folder)
        if hasattr(config, "vision_config"):
            raise SystemExit("transformers is timed on text alone: name a model without a tower")
        with torch.device(self.device):
            self.model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def run(self, requests: Sequence[Request], out_len: int) -> list[int]:
        """How many tokens each request got."""
        ids = torch.tensor([request.prompt for request in requests], device=self.device)
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=out_len,
            min_new_tokens=out_len,
            pad_token_id=0,
        )
        return [len(row) - ids.shape[1] for row in out.tolist()]
