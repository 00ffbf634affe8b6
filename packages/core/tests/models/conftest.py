"""Random tiny checkpoints written by transformers, in its own spelling and in the published one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_backends import attention
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

__all__ = ["attention"]

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
}
CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}

#: (folder, transformers' model)
Made = tuple[Path, Any]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """Makes and saves a random model: make("llama", **config) → folder, model."""

    def make(style: str, *, max_shard_size: str = "1GB", **options: Any) -> Made:
        config_class, model_class = CLASSES[style]
        torch.manual_seed(0)
        model = model_class(config_class(**{**SIZES, **options})).eval()
        for name, parameter in model.named_parameters():
            deviation = 0.5 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
            offset = 1.0 if "norm" in name else 0.0
            torch.nn.init.normal_(parameter, offset, deviation)
        folder = tmp_path / f"{style} {len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return folder, model

    return make


@pytest.fixture
def publish() -> Callable[[Path], None]:
    """Rewrites a config.json as files of before transformers 5 are spelt."""

    def publish(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope == {"rope_type": "default"} else rope
        config["torch_dtype"] = config.pop("dtype")
        for name in ("layer_types", "head_dim"):
            config.pop(name, None)
        file.write_text(json.dumps(config))

    return publish
