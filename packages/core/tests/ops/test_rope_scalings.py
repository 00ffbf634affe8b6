"""Every rope scaling against transformers' own functions, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sensorium.decoder_config import RopeConfig
from sensorium.errors import ConfigError
from sensorium.models.families import read_rope
from sensorium.models.styles import STYLES
from sensorium.ops import Rope, attention_factor, inverse_frequencies

CPU = torch.device("cpu")
SHORT = [1.0 + 0.01 * i for i in range(32)]
LONG = [1.0 + i for i in range(32)]
LENGTH = 4096
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "yarn, its own numbers": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "beta_slow": 2,
        "attention_factor": 0.7,
    },
    "yarn, not cut to whole pairs": {"rope_type": "yarn", "factor": 8.0, "truncate": False},
    "yarn, DeepSeek's": {
        "rope_type": "yarn",
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 2048,
    },
    "yarn, no factor": {
        "rope_type": "yarn",
        "factor": None,
        "original_max_position_embeddings": 512,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "original_max_position_embeddings": 1024,
    },
    "longrope, its own numbers": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "factor": 16.0,
        "original_max_position_embeddings": 2048,
    },
    "longrope, its own length": {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "attention_factor": 1.19,
        "original_max_position_embeddings": 512,
    },
}


@pytest.mark.parametrize("max_len", [None, 512, 1024, 2500, 4096, 9000])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_frequencies_and_factor_equal_transformers(
    scaling: dict[str, Any], max_len: int | None
) -> None:
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        rope_parameters={**scaling, "rope_theta": 5e5},
    )
    compute = ROPE_INIT_FUNCTIONS[scaling["rope_type"]]
    expected, factor = compute(config, CPU, seq_len=max_len)
    text = {"rope_theta": 5e5, "rope_scaling": scaling, "max_position_embeddings": LENGTH}
    rope = read_rope(text)
    torch.testing.assert_close(inverse_frequencies(rope, 64, max_len), expected, rtol=0, atol=0)
    assert attention_factor(rope) == pytest.approx(factor, rel=1e-12)


def test_cosines_and_sines_are_lengthened() -> None:
    scaling = SCALINGS["yarn"]
    rope = read_rope({"rope_scaling": scaling, "max_position_embeddings": LENGTH})
    factor = attention_factor(rope)
    assert factor > 1.1
    cos, sin = Rope(rope, 64, CPU).tables(torch.arange(50)[None], torch.float32)
    length = (cos.square() + sin.square()).sqrt()
    torch.testing.assert_close(length, torch.full_like(length, factor))
    # Rounded once, behind the product.
    wide = Rope(rope, 64, CPU).tables(torch.arange(50)[None], torch.bfloat16)[0]
    assert torch.equal(wide, cos.to(torch.bfloat16))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_a_part_of_a_head_has_its_own_frequencies(share: float) -> None:
    pairs = int(64 * share) // 2
    config = Phi3Config(
        hidden_size=128,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        original_max_position_embeddings=1024,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": SHORT[:pairs],
            "long_factor": LONG[:pairs],
            "partial_rotary_factor": share,
            "original_max_position_embeddings": 1024,
        },
    )
    rope = read_rope(config.to_dict(), STYLES["phi3"])
    assert rope.share == share
    for max_len in (1024, 1025):
        expected, _ = ROPE_INIT_FUNCTIONS["longrope"](config, CPU, seq_len=max_len)
        result = inverse_frequencies(rope, 64, max_len)
        assert len(result) == pairs
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (RopeConfig(scaling={"rope_type": "yarn"}), "factor None; it must be a number"),
        (RopeConfig(scaling={"rope_type": "dynamic", "factor": "4"}), "factor '4'"),
        (
            RopeConfig(
                scaling={
                    "rope_type": "longrope",
                    "short_factor": [1.0],
                    "original_max_position_embeddings": 8,
                    "factor": 2.0,
                }
            ),
            "short_factor 1 of them; it must be a list of 4 numbers",
        ),
        (
            RopeConfig(
                scaling={
                    "rope_type": "longrope",
                    "original_max_position_embeddings": 8,
                    "factor": 2.0,
                }
            ),
            "short_factor None",
        ),
        (RopeConfig(share=0.4), "of a head's 8 elements it turns 3"),
        (RopeConfig(share=1.5), "of a head's 8 elements it turns 12"),
        (RopeConfig(share=0.1), "it turns 0"),
    ],
)
def test_what_cant_be_is_refused_with_the_numbers(config: RopeConfig, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Rope(config, 8, CPU)
