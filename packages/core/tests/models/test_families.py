"""Reading decoder configs in every published spelling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sensorium.decoder_config import DecoderConfig, RopeConfig
from sensorium.errors import ConfigError
from sensorium.models.families import decoder_rules, read_decoder_config
from sensorium.plugins import WeightMap

#: As Qwen2.5-3B's decoder is published inside a larger model: flat, with sections.
QWEN = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 128000,
    "max_window_layers": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "sliding_window": 32768,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
QWEN_READ = DecoderConfig(
    hidden_size=2048,
    intermediate_size=11008,
    num_layers=4,
    num_heads=16,
    num_kv_heads=2,
    head_size=128,
    vocab_size=151936,
    norm_eps=1e-6,
    rope=RopeConfig(theta=1e6, sections=(16, 24, 24)),
    max_positions=128000,
    attention_bias=True,
    tied=True,
    dtype="bfloat16",
)


def read(**changes: Any) -> DecoderConfig:
    return read_decoder_config({**QWEN, **changes})


def test_flat_configs() -> None:
    assert read() == QWEN_READ


def test_transformers_5_nests_and_renames() -> None:
    outer = ("model_type", "tie_word_embeddings", "torch_dtype")
    text = {key: value for key, value in QWEN.items() if key not in (*outer, "rope_theta")}
    del text["rope_scaling"]
    text["model_type"] = "qwen2_5_vl_text"
    text["dtype"] = "bfloat16"
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1000000.0,
        "mrope_section": [16, 24, 24],
    }
    nested = {"model_type": "qwen2_5_vl", "tie_word_embeddings": True, "text_config": text}
    assert read_decoder_config(nested, "qwen2") == QWEN_READ


def test_what_a_text_config_leaves_out_is_llamas_default() -> None:
    """LLaVA-1.5's ``text_config`` says no more than this."""
    text = {
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    }
    config = {"text_config": text, "tie_word_embeddings": False, "torch_dtype": "float16"}
    assert read_decoder_config(config) == DecoderConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_size=128,
        vocab_size=32064,
        norm_eps=1e-5,
        rope=RopeConfig(theta=1e4),
        max_positions=4096,
        dtype="float16",
    )


def test_llama_may_have_biases_and_a_head_size() -> None:
    sizes = {key: QWEN[key] for key in ("hidden_size", "num_attention_heads", "vocab_size")}
    llama = {"model_type": "llama", **sizes, "num_key_value_heads": None, "head_dim": 64}
    config = read_decoder_config({**llama, "attention_bias": True, "mlp_bias": True})
    assert (config.attention_bias, config.output_bias, config.mlp_bias) == (True, True, True)
    assert (config.head_size, config.num_kv_heads) == (64, 16)
    assert not read_decoder_config(llama).attention_bias


def test_scalings_keep_their_numbers() -> None:
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0}
    rope = read(rope_scaling=scaling).rope
    assert rope.scaling == {**scaling, "original_max_position_embeddings": 128000}
    assert read(rope_scaling=None).rope == RopeConfig(theta=1e6)


def test_sliding_windows_are_honoured_where_switched_on() -> None:
    assert read(sliding_window=64).sliding_window is None
    on = {"use_sliding_window": True, "sliding_window": 64}
    assert read(**on).sliding_window == (None, None, 64, 64)
    types = ["sliding_attention", *["full_attention"] * 3]
    assert read(**on, layer_types=types).sliding_window == (64, None, None, None)
    assert read(use_sliding_window=True, sliding_window=None) == QWEN_READ


def test_the_whole_models_tying_counts() -> None:
    text = {**QWEN, "tie_word_embeddings": True}
    outer = {"text_config": text, "tie_word_embeddings": False}
    assert read_decoder_config(outer, "qwen2") == replace(QWEN_READ, tied=False)
    assert read_decoder_config({"text_config": text}, "qwen2") == QWEN_READ


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": "2048"}, "hidden_size '2048'; it must be an integer above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"num_key_value_heads": 3}, "16 attention heads and 3 key-value heads"),
        ({"num_attention_heads": 14}, "hidden_size 2048, which 14 heads can't share"),
        ({"rms_norm_eps": -1}, "rms_norm_eps -1; it must be a number above 0"),
        ({"rope_theta": "x"}, "rope_theta 'x'"),
        ({"rope_scaling": {"type": "mrope"}}, "has no mrope_section"),
        ({"rope_parameters": {"full_attention": {}}}, "rope parameters by layer type"),
        ({"model_type": "mamba"}, "of type 'mamba'; built are llama, mistral, qwen2"),
        (
            {"use_sliding_window": True, "layer_types": ["full_attention"]},
            "for each of 4 layers",
        ),
    ],
)
def test_what_cant_be_read_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(**changes)


def test_names_in_several_spellings() -> None:
    rules = WeightMap(decoder_rules(("language_model.model.", "model."), ("lm_head.", "x.head.")))
    for name, target in {
        "model.embed_tokens.weight": "embed_tokens.weight",
        "language_model.model.norm.weight": "norm.weight",
        "model.layers.11.self_attn.q_proj.bias": "layers.11.self_attn.q_proj.bias",
        "model.layers.0.mlp.down_proj.weight": "layers.0.mlp.down_proj.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq": None,
        "lm_head.weight": "lm_head.weight",
        "x.head.weight": "lm_head.weight",
    }.items():
        assert rules.target(name) == target
    for name in ("model.layers.0.mlp.weight", "modelxnorm.weight", "lm_head.bias", "norm.weight"):
        assert not rules.claims(name)
