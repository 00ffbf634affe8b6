"""Reads a decoder's config and names its weights, by the tables of ``styles.py``.

Every published spelling is read: flat configs, those with a ``text_config``, and transformers
5's with ``rope_parameters``. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sensorium.decoder_config import DecoderConfig, RopeConfig
from sensorium.errors import ConfigError
from sensorium.models.styles import STYLES, Style
from sensorium.models.values import integer, number
from sensorium.plugins import WeightRule

#: Keys where null is no gap to fill: there is no window, no cap, or a key head for each head.
_NULL_COUNTS = (
    "sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "num_key_value_heads",
)
#: A scaling's entries that are read into other places.
_NOT_SCALING = ("type", "rope_type", "rope_theta", "mrope_section", "partial_rotary_factor")


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of ``config.json`` that describes the decoder: ``text_config`` or all of it."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def read_decoder_config(config: Mapping[str, Any], style: str | None = None) -> DecoderConfig:
    """Reads a decoder out of ``config.json``.

    Args:
        config: flat or with a ``text_config``, in the old or in transformers 5's spelling.
        style: a key of ``STYLES``; None: as the decoder's ``model_type`` says ("llama" where
            it says nothing).

    Raises:
        ConfigError: a value that is missing, of the wrong type or not built.
    """
    text = text_config(config)
    table = STYLES[style or _style_of(text)]
    values = {
        **table.defaults,
        **{k: v for k, v in text.items() if v is not None or k in _NULL_COUNTS},
    }
    hidden_size = integer(values, "hidden_size")
    num_heads = integer(values, "num_attention_heads")
    num_kv_heads = integer(values, "num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"config.json has {num_heads} attention heads and {num_kv_heads} key-value heads; "
            "the first must be a multiple of the second."
        )
    if "head_dim" not in values and hidden_size % num_heads:
        raise ConfigError(
            f"config.json has hidden_size {hidden_size}, which {num_heads} heads can't share."
        )
    num_layers = integer(values, "num_hidden_layers")
    rope, local_rope = _ropes(values, table)
    own_bias = table.bias == "config" and bool(values.get("attention_bias", False))
    decoder = DecoderConfig(
        hidden_size=hidden_size,
        intermediate_size=integer(values, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=integer(values, "head_dim", default=hidden_size // num_heads),
        vocab_size=integer(values, "vocab_size"),
        norm_eps=number(values, "rms_norm_eps"),
        rope=rope,
        local_rope=local_rope,
        max_positions=_max_positions(values, table, rope),
        activation=str(values.get("hidden_act", "silu")),
        attention_bias=own_bias or table.bias == "qkv",
        output_bias=own_bias,
        mlp_bias=bool(values.get("mlp_bias", False)),
        tied=_tied(config, text, table),
        sliding_window=table.windows(values, num_layers),
        dtype=read_dtype(config),
    )
    return replace(decoder, **table.fields, **table.more(values))


def read_rope(text: Mapping[str, Any], style: Style = STYLES["llama"]) -> RopeConfig:
    """Reads ``rope_theta`` and ``rope_scaling``, or transformers 5's ``rope_parameters``.

    Raises:
        ConfigError: numbers that are missing or of the wrong type. Whether a scaling is built
            is decided where its frequencies are computed.
    """
    scaling = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping) or any(isinstance(v, Mapping) for v in scaling.values()):
        raise ConfigError(
            "config.json has rope parameters by layer type; this family has one set for all."
        )
    name = scaling.get("rope_type", scaling.get("type", "default"))
    name = style.rope_types.get(name, name)
    sections = scaling.get("mrope_section", ())
    if name == "mrope" and not sections:
        raise ConfigError('rope_scaling is of type "mrope" and has no mrope_section.')
    theta = scaling.get("rope_theta", text.get("rope_theta", 10000.0))
    share = scaling.get("partial_rotary_factor", text.get("partial_rotary_factor")) or 1.0
    if share != 1.0 and not style.partial_rope:
        raise ConfigError(
            f"config.json has partial_rotary_factor {share!r}; this family turns whole heads."
        )
    return RopeConfig(
        theta=number({"rope_theta": theta}, "rope_theta"),
        sections=tuple(int(size) for size in sections),
        scaling={} if name in ("default", "mrope") else _read_scaling(scaling, name, text),
        share=number({"partial_rotary_factor": share}, "partial_rotary_factor"),
    )


def _read_scaling(scaling: Mapping[str, Any], name: str, text: Mapping[str, Any]) -> dict[str, Any]:
    """A scaling with the numbers that follow from others, by transformers' rules."""
    rest = {key: value for key, value in scaling.items() if key not in _NOT_SCALING}
    rest["rope_type"] = name
    whole = text.get("max_position_embeddings")
    if name == "dynamic":
        rest["original_max_position_embeddings"] = whole
    elif text.get("original_max_position_embeddings") is not None:
        rest["original_max_position_embeddings"] = text["original_max_position_embeddings"]
    else:
        rest.setdefault("original_max_position_embeddings", whole)
    if name in ("longrope", "yarn") and rest.get("factor") is None:
        original = number(rest, "original_max_position_embeddings")
        rest["factor"] = number(text, "max_position_embeddings") / original
    return rest


def read_dtype(config: Mapping[str, Any]) -> str | None:
    """The checkpoint's own dtype by name, in either spelling and place; None if it says none."""
    text = text_config(config)
    for place in (text, config):
        for key in ("dtype", "torch_dtype"):
            if place.get(key):
                return str(place[key]).removeprefix("torch.")
    return None


def decoder_rules(
    bodies: Sequence[str] = ("model.",),
    heads: Sequence[str] = ("lm_head.",),
    style: str = "llama",
) -> tuple[WeightRule, ...]:
    """Rules for a decoder whose weights have Llama's names behind a prefix.

    Args:
        bodies: prefixes of ``embed_tokens``, ``layers`` and ``norm``, one for each spelling.
        heads: spellings of ``lm_head.``.
        style: a key of ``STYLES``, whose norms are named as its table says.
    """
    body, head = ("|".join(map(re.escape, prefixes)) for prefixes in (bodies, heads))
    in_layer = (
        r"self_attn\.(?:[qkvo]|qkv)_proj\.(?:weight|bias)"
        r"|self_attn\.[qk]_norm\.weight"
        r"|mlp\.(?:gate|up|down|gate_up)_proj\.(?:weight|bias)"
    )
    return (
        WeightRule(rf"(?:{body})((?:embed_tokens|norm)\.weight)", r"\1"),
        WeightRule(rf"(?:{body})(layers\.\d+\.(?:{in_layer}))", r"\1"),
        *(
            WeightRule(rf"(?:{body})(layers\.\d+)\.{theirs}\.weight", rf"\1.{ours}.weight")
            for theirs, ours in STYLES[style].norms.items()
        ),
        # Old files hold the rotary frequencies, which follow from the config.
        WeightRule(rf"(?:{body})layers\.\d+\.self_attn\.rotary_emb\.inv_freq", None),
        WeightRule(rf"(?:{head})weight", "lm_head.weight"),
    )


def _style_of(text: Mapping[str, Any]) -> str:
    model_type = str(text.get("model_type", "llama"))
    for name, style in STYLES.items():
        if model_type in style.model_types:
            return name
    raise ConfigError(
        f"config.json has a decoder of type {model_type!r}; built are {', '.join(STYLES)}."
    )


def _tied(config: Mapping[str, Any], text: Mapping[str, Any], style: Style) -> bool:
    """The outer entry counts where both are there: the output matrix is the whole model's."""
    for place in (config, text, style.defaults):
        if place.get("tie_word_embeddings") is not None:
            return bool(place["tie_word_embeddings"])
    return False


def _ropes(values: Mapping[str, Any], style: Style) -> tuple[RopeConfig, RopeConfig | None]:
    """The rope of layers that see all, and that of layers with a window if it is another.

    Gemma 3's old files spell the second as ``rope_local_base_freq``; transformers 5's
    ``rope_parameters`` have an entry for each type of layer.
    """
    if not style.local_rope:
        return read_rope(values, style), None
    given = values.get("rope_parameters") or {}
    known = {"full_attention", "sliding_attention"}
    by_type = given if isinstance(given, Mapping) and set(given) & known else {}
    if set(by_type) - known:
        raise ConfigError(
            f"config.json has rope parameters for {', '.join(sorted(set(by_type) - known))}; "
            f"allowed are {', '.join(sorted(known))}."
        )
    full = {**values, "rope_parameters": by_type.get("full_attention")} if by_type else values
    local = {
        **values,
        "rope_parameters": by_type.get("sliding_attention"),
        "rope_scaling": None,
        "rope_theta": values["rope_local_base_freq"],
    }
    return read_rope(full, style), read_rope(local, style)


def _max_positions(values: Mapping[str, Any], style: Style, rope: RopeConfig) -> int:
    """The longest context, to which a scaling may extend the one that a config names.

    LongRoPE's and Llama 3's configs name the extended one; so do some of YaRN's, where the
    original one stands beside it.
    """
    named = integer(values, "max_position_embeddings")
    name = rope.scaling.get("rope_type")
    if name == "yarn":
        original = number(rope.scaling, "original_max_position_embeddings")
        return max(named, int(original * number(rope.scaling, "factor")))
    if name in ("linear", "dynamic") and style.counts_factor:
        return max(named, int(named * number(rope.scaling, "factor")))
    return named
