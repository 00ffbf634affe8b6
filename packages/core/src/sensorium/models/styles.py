"""The decoder families' tables: what distinguishes one style of ``config.json`` from another.

A style says which keys files leave out and what they then mean, how windows and biases are
spelt, how a layer's norms are named, and which fields of ``DecoderConfig`` all its checkpoints
share. ``families.py`` reads a config by its style. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sensorium.errors import ConfigError
from sensorium.models.values import integer, number, number_or_none

#: Windows of a config with its defaults filled in, one entry a layer; None: no layer has one.
Windows = Callable[[Mapping[str, Any], int], tuple[int | None, ...] | None]
#: Fields of ``DecoderConfig`` that a config with its defaults filled in gives.
Fields = Callable[[Mapping[str, Any]], Mapping[str, Any]]

#: A layer's norms: as published → the decoder's own names, which are Llama's.
NORMS_BEFORE: Mapping[str, str] = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
}
NORMS_BEHIND: Mapping[str, str] = {
    "post_attention_layernorm": "attention_output_norm",
    "post_feedforward_layernorm": "mlp_output_norm",
}
NORMS_AROUND: Mapping[str, str] = {
    "input_layernorm": "input_layernorm",
    "pre_feedforward_layernorm": "post_attention_layernorm",
    **NORMS_BEHIND,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What distinguishes one style of config.

    Attributes:
        model_types: the ``model_type`` entries that it is known by.
        defaults: values of keys that published files leave out (those of transformers' class).
        bias: which attention projections have one: as ``attention_bias`` says ("config"), always q,
            k and v ("qkv"), or none ("none").
        windows: reads sliding windows.
        norms: a layer's norms.
        fields: fields of ``DecoderConfig`` that all its checkpoints share.
        more: reads further fields of the style.
        local_rope: layers with a window have a rope of their own.
        partial_rope: the config may turn a part of each head only.
        rope_types: spellings of a scaling's type that mean another.
        counts_factor: a linear or dynamic scaling's factor makes the context longer than
            ``max_position_embeddings``.
    """

    model_types: tuple[str, ...]
    defaults: Mapping[str, Any]
    bias: Literal["config", "qkv", "none"] = "config"
    windows: Windows = lambda values, num_layers: None
    norms: Mapping[str, str] = field(default_factory=lambda: NORMS_BEFORE)
    fields: Mapping[str, Any] = field(default_factory=dict)
    more: Fields = lambda values: {}
    local_rope: bool = False
    partial_rope: bool = False
    rope_types: Mapping[str, str] = field(default_factory=dict)
    counts_factor: bool = True


def switched_windows(values: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...] | None:
    """Qwen's: switched on, the layers from ``max_window_layers`` on have it."""
    if not values.get("use_sliding_window") or values.get("sliding_window") is None:
        return None
    window = integer(values, "sliding_window")
    types = values.get("layer_types")
    if types is None:
        first = values.get("max_window_layers", 28)
        return tuple(window if i >= first else None for i in range(num_layers))
    return _by_type(types, window, num_layers)


def one_window(values: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...] | None:
    """Mistral's and Phi-3's: every layer has it, unless it is null."""
    if values.get("sliding_window") is None:
        return None
    return (integer(values, "sliding_window"),) * num_layers


def gemma2_windows(values: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """Gemma 2's: every other layer has it, from the first on.

    Raises:
        ConfigError: no window, or layers that see both ways.
    """
    return _alternating(values, num_layers, every=2)


def gemma3_windows(values: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...]:
    """Gemma 3's: every layer but each ``sliding_window_pattern``-th has it.

    Raises:
        ConfigError: no window, or layers that see both ways.
    """
    return _alternating(values, num_layers, every=integer(values, "sliding_window_pattern"))


def _alternating(values: Mapping[str, Any], num_layers: int, every: int) -> tuple[int | None, ...]:
    """Each ``every``-th layer has no window, unless ``layer_types`` say it layer by layer."""
    if values.get("use_bidirectional_attention"):
        raise ConfigError(
            "config.json has use_bidirectional_attention; only causal decoders are built."
        )
    window = integer(values, "sliding_window")
    types = values.get("layer_types")
    if types is None:
        return tuple(window if (i + 1) % every else None for i in range(num_layers))
    return _by_type(types, window, num_layers)


def _by_type(types: Any, window: int, num_layers: int) -> tuple[int | None, ...]:
    known = {"full_attention", "sliding_attention"}
    if not isinstance(types, list) or len(types) != num_layers or not set(types) <= known:
        raise ConfigError(
            f"config.json has layer_types {types!r}; it must name full_attention or "
            f"sliding_attention for each of {num_layers} layers."
        )
    return tuple(window if name == "sliding_attention" else None for name in types)


def gemma_numbers(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Gemma's scales and caps."""
    return {
        "attention_scale": number(values, "query_pre_attn_scalar") ** -0.5,
        "attention_soft_cap": number_or_none(values, "attn_logit_softcapping"),
        "logit_soft_cap": number_or_none(values, "final_logit_softcapping"),
        "embed_scale": integer(values, "hidden_size") ** 0.5,
        "activation": str(values["hidden_activation"]),
    }


_COMMON = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu"}
_GEMMA = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GEMMA_FIELDS = {"norms_behind": True, "norm_wide": True, "norm_offset": 1.0}

STYLES: Mapping[str, Style] = {
    # LLaVA-1.5's text_config relies on these defaults.
    "llama": Style(
        model_types=("llama",),
        defaults={
            **_COMMON,
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
        },
    ),
    "mistral": Style(
        model_types=("mistral",),
        defaults={
            **_COMMON,
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
        bias="none",
        windows=one_window,
    ),
    "qwen2": Style(
        model_types=("qwen2", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"),
        defaults=_COMMON,
        bias="qkv",
        windows=switched_windows,
    ),
    "qwen3": Style(
        model_types=("qwen3",),
        defaults={**_COMMON, "head_dim": 128},
        windows=switched_windows,
        fields={"qk_norm": "head"},
    ),
    "phi3": Style(
        model_types=("phi3",),
        defaults={
            **_COMMON,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        },
        bias="none",
        windows=one_window,
        partial_rope=True,
        rope_types={"su": "longrope", "yarn": "longrope"},
    ),
    "gemma2": Style(
        model_types=("gemma2",),
        defaults={
            **_GEMMA,
            "vocab_size": 256000,
            "max_position_embeddings": 8192,
            "rope_theta": 10000.0,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        windows=gemma2_windows,
        norms=NORMS_AROUND,
        fields=_GEMMA_FIELDS,
        more=gemma_numbers,
    ),
    "gemma3": Style(
        model_types=("gemma3_text", "gemma3"),
        defaults={
            **_GEMMA,
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "sliding_window_pattern": 6,
        },
        windows=gemma3_windows,
        norms=NORMS_AROUND,
        fields={**_GEMMA_FIELDS, "qk_norm": "head"},
        more=gemma_numbers,
        local_rope=True,
        counts_factor=False,
    ),
    "olmo2": Style(
        model_types=("olmo2",),
        defaults={
            **_COMMON,
            "rms_norm_eps": 1e-5,
            "vocab_size": 50304,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
        },
        norms=NORMS_BEHIND,
        fields={
            "norms_before": False,
            "norms_behind": True,
            "norm_wide": True,
            "qk_norm": "width",
        },
    ),
}
