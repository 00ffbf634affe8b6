"""What each style's table makes of a config, published, old or transformers 5's."""

from __future__ import annotations

from typing import Any

import pytest

from sensorium.decoder_config import DecoderConfig, RopeConfig
from sensorium.errors import ConfigError
from sensorium.models.families import read_decoder_config
from sensorium.models.manifests import load_manifest
from sensorium.models.styles import STYLES

LONGROPE = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}


def read(manifest: str, **changes: Any) -> DecoderConfig:
    return read_decoder_config({**load_manifest(manifest).config, **changes})


def test_what_the_published_configs_say() -> None:
    llama = read("llama_3_2_1b")
    assert (llama.head_size, llama.tied, llama.max_positions) == (64, True, 131072)
    assert llama.rope.scaling["rope_type"] == "llama3"
    mistral = read("mistral_7b_v0_3")
    assert (mistral.sliding_window, mistral.rope.theta) == (None, 1e6)
    qwen = read("qwen3_0_6b")
    assert (qwen.qk_norm, qwen.head_size, qwen.attention_bias) == ("head", 128, False)
    phi = read("phi_3_5_mini")
    assert phi.rope.scaling["rope_type"] == "longrope"
    assert phi.rope.scaling["original_max_position_embeddings"] == 4096
    assert phi.rope.scaling["factor"] == 32.0
    assert (phi.max_positions, phi.sliding_window) == (131072, (262144,) * 32)
    olmo = read("olmo_2_0425_1b")
    assert (olmo.norms_before, olmo.norms_behind, olmo.norm_wide) == (False, True, True)
    assert (olmo.qk_norm, olmo.norm_offset) == ("width", 0.0)


def test_what_gemmas_published_configs_say() -> None:
    two, three = read("gemma_2_2b_it"), read("gemma_3_1b_it")
    for gemma in (two, three):
        assert gemma.tied, "the published configs don't say so"
        assert (gemma.norms_before, gemma.norms_behind) == (True, True)
        assert (gemma.norm_wide, gemma.norm_offset) == (True, 1.0)
        assert (gemma.activation, gemma.head_size) == ("gelu_pytorch_tanh", 256)
        assert gemma.attention_scale == 256**-0.5
        assert gemma.embed_scale == gemma.hidden_size**0.5
    assert (two.attention_soft_cap, two.logit_soft_cap, two.qk_norm) == (50.0, 30.0, None)
    assert two.sliding_window == (4096, None) * 13
    assert two.local_rope is None
    assert (three.attention_soft_cap, three.logit_soft_cap, three.qk_norm) == (None, None, "head")
    assert three.sliding_window == ((512,) * 5 + (None,)) * 4 + (512, 512)
    assert (three.rope, three.local_rope) == (RopeConfig(theta=1e6), RopeConfig(theta=1e4))


def test_null_is_no_gap_where_it_means_something() -> None:
    assert read("gemma_2_2b_it", attn_logit_softcapping=None).attention_soft_cap is None
    assert read("mistral_7b_v0_3", num_key_value_heads=None).num_kv_heads == 32
    config = dict(load_manifest("mistral_7b_v0_3").config)
    del config["sliding_window"], config["num_key_value_heads"]
    left_out = read_decoder_config(config)
    assert (left_out.sliding_window, left_out.num_kv_heads) == ((4096,) * 32, 8)


def test_gemma_3_ropes_in_every_spelling() -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    old = read("gemma_3_1b_it", rope_scaling=scaling, rope_local_base_freq=5000.0)
    assert old.rope.scaling["factor"] == 8.0
    assert old.local_rope == RopeConfig(theta=5000.0), "only the layers that see all are scaled"
    assert old.max_positions == 32768, "the published length counts the factor"
    spelt = {
        "full_attention": {**scaling, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
    }
    config = dict(load_manifest("gemma_3_1b_it").config)
    del config["rope_theta"], config["rope_local_base_freq"], config["sliding_window_pattern"]
    types = ["sliding_attention", "full_attention"] * 13
    new = read_decoder_config({**config, "rope_parameters": spelt, "layer_types": types})
    assert (new.rope, new.local_rope) == (old.rope, old.local_rope)
    assert new.sliding_window == (512, None) * 13


def test_phi_3s_old_names_of_longrope() -> None:
    for name in ("su", "yarn"):
        rope = read("phi_3_5_mini", rope_scaling={**LONGROPE, "type": name}).rope
        assert rope.scaling["rope_type"] == "longrope"
    assert read("phi_3_5_mini", partial_rotary_factor=0.75).rope.share == 0.75
    spelt = {**LONGROPE, "rope_type": "longrope", "partial_rotary_factor": 0.5}
    assert read("phi_3_5_mini", rope_parameters=spelt).rope.share == 0.5
    # Another family's yarn is yarn.
    yarn = {"rope_type": "yarn", "factor": 4.0}
    assert read("llama_3_2_1b", rope_scaling=yarn).rope.scaling["rope_type"] == "yarn"


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"type": "linear", "factor": 4.0}, 16384),
        ({"type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0}, 16384),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        (None, 4096),
    ],
)
def test_scalings_extend_the_context(scaling: dict[str, Any] | None, longest: int) -> None:
    config = read("llama_3_2_1b", rope_scaling=scaling, max_position_embeddings=4096)
    assert config.max_positions == longest


@pytest.mark.parametrize(
    ("manifest", "changes", "sentence"),
    [
        ("gemma_3_1b_it", {"use_bidirectional_attention": True}, "only causal decoders"),
        ("gemma_3_1b_it", {"sliding_window": None}, "has no sliding_window"),
        ("gemma_3_1b_it", {"layer_types": ["full_attention"]}, "for each of 26 layers"),
        (
            "gemma_3_1b_it",
            {"rope_parameters": {"full_attention": {}, "chunked_attention": {}}},
            "rope parameters for chunked_attention",
        ),
        ("gemma_2_2b_it", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar 0"),
        ("gemma_2_2b_it", {"final_logit_softcapping": -1.0}, "final_logit_softcapping -1.0"),
        ("llama_3_2_1b", {"partial_rotary_factor": 0.5}, "this family turns whole heads"),
        ("phi_3_5_mini", {"partial_rotary_factor": "x"}, "partial_rotary_factor 'x'"),
        ("mistral_7b_v0_3", {"sliding_window": 0}, "sliding_window 0"),
        ("qwen3_0_6b", {"model_type": "qwen3_moe"}, "of type 'qwen3_moe'; built are"),
        ("gemma_3_1b_it", {"model_type": "gemma3n_text"}, "of type 'gemma3n_text'"),
    ],
)
def test_what_isnt_built_is_refused_by_name(
    manifest: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(manifest, **changes)


def test_a_model_type_belongs_to_one_style() -> None:
    types = [name for style in STYLES.values() for name in style.model_types]
    assert len(types) == len(set(types))
