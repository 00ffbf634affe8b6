"""Random tiny checkpoints of text decoders, spelt as their manifests say.

A case is a manifest and what its config says otherwise, so that the family's peculiarity shows
on short prompts: windows shorter than a prompt, caps that bite, scalings that change something.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_checkpoints import llama_tokenizer

from sensorium.models.manifests import load_manifest

VOCABULARY = 384
#: Where a case's config says nothing else; 2 query heads share a key head.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOWS = {"num_hidden_layers": 5, "sliding_window": 12}
SHORT = [1.0 + 0.05 * i for i in range(8)]
LONG = [1.0 + 1.5 * i for i in range(8)]


@dataclass(frozen=True)
class Case:
    """A tiny checkpoint.

    Attributes:
        manifest: whose names and config it has.
        config: entries that replace the published ones; SIZES come first.
        max_model_len: of the engine.
        extended: the scaling's side is that of contexts behind the original length.
    """

    manifest: str
    config: Mapping[str, Any] = field(default_factory=dict)
    max_model_len: int = 256
    extended: bool = False


def longrope(original: int, **more: Any) -> dict[str, Any]:
    """Phi-3's, two sets of eight factors."""
    scaling = {"short_factor": SHORT, "long_factor": LONG, "type": "longrope"}
    return {
        "rope_scaling": {**scaling, **more},
        "original_max_position_embeddings": original,
        "max_position_embeddings": 1024,
        "sliding_window": None,
    }


def scaled(**scaling: Any) -> dict[str, Any]:
    """A Llama whose rope is scaled from 64 tokens on."""
    return {"rope_scaling": scaling, "rope_theta": 10000.0, "max_position_embeddings": 64}


CASES: dict[str, Case] = {
    "llama 3": Case(
        "llama_3_2_1b",
        {
            "head_dim": 16,
            "rope_theta": 1e4,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "llama linear": Case(
        "llama_3_2_1b", {"head_dim": 16, **scaled(rope_type="linear", factor=4.0)}
    ),
    "llama yarn": Case(
        "llama_3_2_1b",
        {
            "head_dim": 16,
            **scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
            "max_position_embeddings": 256,
        },
    ),
    "llama dynamic": Case(
        "llama_3_2_1b", {"head_dim": 16, **scaled(type="dynamic", factor=4.0)}, 64
    ),
    "llama dynamic, extended": Case(
        "llama_3_2_1b", {"head_dim": 16, **scaled(type="dynamic", factor=4.0)}, 256, extended=True
    ),
    "mistral": Case("mistral_7b_v0_3", {"max_position_embeddings": 1024}),
    "mistral windows": Case(
        "mistral_7b_v0_3", {"sliding_window": 20, "head_dim": 24, "rope_theta": 10000.0}
    ),
    "qwen3": Case("qwen3_0_6b", {"head_dim": 32}),
    "qwen3 windows": Case(
        "qwen3_0_6b",
        {
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 12,
            "max_window_layers": 1,
            "attention_bias": False,
        },
    ),
    "phi 3": Case("phi_3_5_mini", longrope(original=256)),
    "phi 3 long": Case("phi_3_5_mini", longrope(original=48), extended=True),
    "phi 3 su, part of a head": Case(
        "phi_3_5_mini",
        {
            **longrope(
                original=48, type="su", short_factor=SHORT[:6], long_factor=LONG[:6], factor=4.0
            ),
            "partial_rotary_factor": 0.75,
            "sliding_window": 30,
        },
        extended=True,
    ),
    "gemma 2": Case(
        "gemma_2_2b_it",
        {
            **WINDOWS,
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 1.0,
        },
    ),
    "gemma 2, heads of 256": Case("gemma_2_2b_it", {"sliding_window": 12}),
    "gemma 3": Case(
        "gemma_3_1b_it",
        {
            **WINDOWS,
            "sliding_window_pattern": 3,
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_theta": 50000.0,
            "rope_local_base_freq": 1000.0,
        },
    ),
    "gemma 3, heads of 256": Case(
        "gemma_3_1b_it", {"sliding_window": 12, "sliding_window_pattern": 3}
    ),
    "olmo 2": Case("olmo_2_0425_1b"),
}


def make_text(folder: Path, name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Writes the checkpoint of ``CASES[name]``."""
    manifest = load_manifest(CASES[name].manifest)
    config = copy.deepcopy(dict(manifest.config))
    config |= {**SIZES, **CASES[name].config, "torch_dtype": str(dtype).removeprefix("torch.")}
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    sizes = {
        "hidden": config["hidden_size"],
        "mlp": config["intermediate_size"],
        "gate_up": 2 * config["intermediate_size"],
        "layers": config["num_hidden_layers"],
        "query": heads * head,
        "key": key_heads * head,
        "qkv": (heads + 2 * key_heads) * head,
        "head": head,
        "vocabulary": VOCABULARY,
    }
    generator = torch.Generator().manual_seed(seed)
    gemma = "gemma" in name
    tensors = {
        weight: draw(weight, shape, generator, gemma=gemma).to(dtype)
        for weight, shape in manifest.shapes(sizes).items()
    }
    if config.get("tie_word_embeddings", gemma) and "lm_head.weight" in tensors:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    llama_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"})
    )
    return folder


def draw(
    name: str, shape: tuple[int, ...], generator: torch.Generator, *, gemma: bool
) -> torch.Tensor:
    """A random tensor of a size that suits its role: activations keep theirs, logits differ.

    Gemma's norms keep their weight less 1, and its embeddings are multiplied by √hidden_size.
    """
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        # A layer adds more than the embedding holds, or a tied model would repeat its last token.
        behind = gemma and "post_" in name
        return 0.3 * values + (1.0 if behind or not gemma else 0.0)
    if name.endswith("embed_tokens.weight"):
        return (0.05 if gemma else 0.15) * values
    if name.endswith("lm_head.weight"):
        return 0.5 * values
    if name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight")):
        return 2.0 * values / math.sqrt(shape[1])  # attention that isn't the mean
    return 1.2 * values / math.sqrt(shape[1])


def load_reference(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The same weights in transformers, with the frequencies that the engine chose.

    transformers chooses those of dynamic NTK and LongRoPE by each forward pass's longest
    sequence; where a case is extended, they are fixed to what it would choose at the engine's
    ``max_model_len``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    case = CASES[name]
    written = json.loads((folder / "config.json").read_text())
    if (written.get("rope_scaling") or {}).get("type") == "su":
        # transformers 5 refuses its own old spelling: it asks for a key before it fills it in.
        written["rope_scaling"]["type"] = "longrope"
    config = AutoConfig.for_model(**written)
    # Older releases leave soft caps out of every implementation but this one.
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=dtype, attn_implementation="eager"
    ).eval()
    if case.extended:
        rope = model.model.rotary_emb
        frequencies, _ = ROPE_INIT_FUNCTIONS[rope.rope_type](
            model.config, torch.device("cpu"), seq_len=case.max_model_len
        )
        assert not torch.equal(rope.inv_freq, frequencies)
        rope.inv_freq.copy_(frequencies)
        rope.rope_type = "default"
    return model
