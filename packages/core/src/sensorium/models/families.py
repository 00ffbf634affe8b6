"""Helpers for families whose decoder has Llama's shape: reading configs, naming weights.

Two styles are known, Llama's and Qwen2's; they differ in the tables below and nowhere else.
Every published spelling is read: flat configs, those with a ``text_config``, and transformers
5's with ``rope_parameters``. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium.decoder_config import DecoderConfig, RopeConfig
from sensorium.errors import ConfigError
from sensorium.plugins import WeightRule


@dataclass(frozen=True, slots=True)
class Style:
    """What distinguishes one style of config.

    Attributes:
        defaults: values of keys that published files leave out.
        attention_bias: whether q, k and v have biases; None: the config says, and then the
            output projection has one too.
        windows: whether the config may switch on sliding windows.
    """

    defaults: Mapping[str, Any]
    attention_bias: bool | None
    windows: bool


STYLES: Mapping[str, Style] = {
    # The defaults of transformers' LlamaConfig, on which LLaVA-1.5's text_config relies.
    "llama": Style(
        defaults={
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
        },
        attention_bias=None,
        windows=False,
    ),
    "qwen2": Style(
        defaults={"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu"},
        attention_bias=True,
        windows=True,
    ),
}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of ``config.json`` that describes the decoder: ``text_config`` or all of it."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def read_decoder_config(config: Mapping[str, Any], style: str | None = None) -> DecoderConfig:
    """Reads a decoder of Llama's or Qwen2's style out of ``config.json``.

    Args:
        config: flat or with a ``text_config``, in the old or in transformers 5's spelling.
        style: a key of ``STYLES``; None: as the decoder's ``model_type`` says ("llama" where
            it says nothing).

    Raises:
        ConfigError: a value that is missing, of the wrong type or not built.
    """
    text = text_config(config)
    table = STYLES[style or _style_of(text)]
    values = {**table.defaults, **{k: v for k, v in text.items() if v is not None}}
    hidden_size = _integer(values, "hidden_size")
    num_heads = _integer(values, "num_attention_heads")
    num_kv_heads = _integer(values, "num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"config.json has {num_heads} attention heads and {num_kv_heads} key-value heads; "
            "the first must be a multiple of the second."
        )
    if "head_dim" not in values and hidden_size % num_heads:
        raise ConfigError(
            f"config.json has hidden_size {hidden_size}, which {num_heads} heads can't share."
        )
    num_layers = _integer(values, "num_hidden_layers")
    own_bias = bool(values.get("attention_bias", False))
    return DecoderConfig(
        hidden_size=hidden_size,
        intermediate_size=_integer(values, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=_integer(values, "head_dim", default=hidden_size // num_heads),
        vocab_size=_integer(values, "vocab_size"),
        norm_eps=_number(values, "rms_norm_eps"),
        rope=read_rope(values),
        max_positions=_integer(values, "max_position_embeddings"),
        activation=str(values["hidden_act"]),
        attention_bias=own_bias if table.attention_bias is None else table.attention_bias,
        output_bias=own_bias if table.attention_bias is None else False,
        mlp_bias=bool(values.get("mlp_bias", False)),
        tied=_tied(config, text),
        sliding_window=_windows(values, num_layers) if table.windows else None,
        dtype=read_dtype(config),
    )


def read_rope(text: Mapping[str, Any]) -> RopeConfig:
    """Reads ``rope_theta`` and ``rope_scaling``, or transformers 5's ``rope_parameters``.

    Raises:
        ConfigError: numbers that are missing or of the wrong type. Whether a scaling is built
            is decided where its frequencies are computed.
    """
    scaling = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping) or any(isinstance(v, Mapping) for v in scaling.values()):
        raise ConfigError(
            "config.json has rope parameters by layer type; only one set for all is built."
        )
    name = scaling.get("rope_type", scaling.get("type", "default"))
    sections = scaling.get("mrope_section", ())
    if name == "mrope" and not sections:
        raise ConfigError('rope_scaling is of type "mrope" and has no mrope_section.')
    theta = scaling.get("rope_theta", text.get("rope_theta", 10000.0))
    rest: dict[str, Any] = {}
    if name not in ("default", "mrope"):
        known = ("type", "rope_type", "rope_theta", "mrope_section")
        rest = {key: value for key, value in scaling.items() if key not in known}
        rest["rope_type"] = name
        # Left out, it is the context's length (transformers' rule).
        rest.setdefault("original_max_position_embeddings", text.get("max_position_embeddings"))
    return RopeConfig(
        theta=_number({"rope_theta": theta}, "rope_theta"),
        sections=tuple(int(size) for size in sections),
        scaling=rest,
    )


def read_dtype(config: Mapping[str, Any]) -> str | None:
    """The checkpoint's own dtype by name, in either spelling and place; None if it says none."""
    text = text_config(config)
    for place in (text, config):
        for key in ("dtype", "torch_dtype"):
            if place.get(key):
                return str(place[key]).removeprefix("torch.")
    return None


def decoder_rules(
    bodies: Sequence[str] = ("model.",), heads: Sequence[str] = ("lm_head.",)
) -> tuple[WeightRule, ...]:
    """Rules for a decoder whose weights have Llama's names behind a prefix.

    Args:
        bodies: prefixes of ``embed_tokens``, ``layers`` and ``norm``, one for each spelling.
        heads: spellings of ``lm_head.``.
    """
    body, head = ("|".join(map(re.escape, prefixes)) for prefixes in (bodies, heads))
    in_layer = (
        r"(?:input_layernorm|post_attention_layernorm)\.weight"
        r"|self_attn\.[qkvo]_proj\.(?:weight|bias)"
        r"|mlp\.(?:gate|up|down)_proj\.(?:weight|bias)"
    )
    return (
        WeightRule(rf"(?:{body})((?:embed_tokens|norm)\.weight)", r"\1"),
        WeightRule(rf"(?:{body})(layers\.\d+\.(?:{in_layer}))", r"\1"),
        # Old files hold the rotary frequencies, which follow from the config.
        WeightRule(rf"(?:{body})layers\.\d+\.self_attn\.rotary_emb\.inv_freq", None),
        WeightRule(rf"(?:{head})weight", "lm_head.weight"),
    )


def _style_of(text: Mapping[str, Any]) -> str:
    model_type = str(text.get("model_type", "llama"))
    for name in STYLES:
        if model_type.startswith(name):
            return name
    raise ConfigError(
        f"config.json has a decoder of type {model_type!r}; built are {', '.join(STYLES)}."
    )


def _tied(config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """The outer entry counts where both are there: the output matrix is the whole model's."""
    for place in (config, text):
        if place.get("tie_word_embeddings") is not None:
            return bool(place["tie_word_embeddings"])
    return False


def _windows(values: Mapping[str, Any], num_layers: int) -> tuple[int | None, ...] | None:
    """Qwen2's: switched on, the layers from ``max_window_layers`` on have it."""
    if not values.get("use_sliding_window") or values.get("sliding_window") is None:
        return None
    window = _integer(values, "sliding_window")
    types = values.get("layer_types")
    if types is None:
        first = values.get("max_window_layers", 28)
        return tuple(window if i >= first else None for i in range(num_layers))
    if len(types) != num_layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise ConfigError(
            f"config.json has layer_types {types!r}; it must name full_attention or "
            f"sliding_attention for each of {num_layers} layers."
        )
    return tuple(window if name == "sliding_attention" else None for name in types)


def _integer(values: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = values.get(name, default)
    if value is None:
        raise ConfigError(f"config.json has no {name}.")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"config.json has {name} {value!r}; it must be an integer above 0.")
    return value


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"config.json has {name} {value!r}; it must be a number above 0.")
    return float(value)
