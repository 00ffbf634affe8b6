"""Rotary embedding against rotation of complex numbers, and against transformers' variants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLRotaryEmbedding,
    apply_rotary_pos_emb,
)

from sensorium.decoder_config import RopeConfig
from sensorium.errors import ConfigError
from sensorium.ops import Rope, apply_rope, apply_rope_

CPU = torch.device("cpu")


def test_pairs_are_turned_by_position_times_frequency() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 3, 8))
    positions = np.array([0, 1, 7, 100, 4095])
    frequencies = 1e4 ** (-np.arange(0, 8, 2) / 8)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * positions[:, None] * frequencies)[:, None]
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    rope = Rope(RopeConfig(theta=1e4), 8, CPU)
    cos, sin = rope.tables(torch.tensor(positions)[None], torch.float32)
    result = apply_rope(torch.tensor(x, dtype=torch.float32), cos[:, None], sin[:, None])
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-3)


def test_in_place_it_is_computed_in_float32_and_rounded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In plain torch; the extension's own op is held to the same elsewhere."""
    monkeypatch.setenv("SENSORIUM_ATTENTION", "reference")
    x = torch.randn(7, 3, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    cos, sin = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(1))
    wanted = apply_rope(x.float(), cos[:, None], sin[:, None]).bfloat16()
    apply_rope_(x, cos, sin)
    assert torch.equal(x, wanted)


def test_positions_on_three_axes_equal_transformers() -> None:
    sections = [2, 3, 3]
    config = Qwen2_5_VLTextConfig(
        hidden_size=64,
        num_attention_heads=4,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    )
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(0, 5000, (3, 11), generator=generator)
    q, k = torch.randn(2, 1, 4, 11, 16, generator=generator)
    theirs = Qwen2_5_VLRotaryEmbedding(config)(q, positions[:, None])  # type: ignore[arg-type]
    expected = apply_rotary_pos_emb(q, k, *theirs)
    rope = Rope(RopeConfig(theta=1e6, sections=tuple(sections)), 16, CPU)
    cos, sin = rope.tables(positions, torch.float32)
    assert cos.is_contiguous()  # compiled ops read the tables row by row
    assert sin.is_contiguous()
    for given, wanted in zip((q, k), expected, strict=True):
        result = apply_rope(given[0].transpose(0, 1), cos[:, None], sin[:, None])
        torch.testing.assert_close(result.transpose(0, 1)[None], wanted, rtol=0, atol=0)


def test_one_axis_stands_for_all() -> None:
    rope = Rope(RopeConfig(sections=(1, 1, 2)), 8, CPU)
    positions = torch.tensor([[3, 9]])
    for one, three in zip(
        rope.tables(positions, torch.float32),
        rope.tables(positions.expand(3, -1), torch.float32),
        strict=True,
    ):
        assert torch.equal(one, three)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (RopeConfig(scaling={"rope_type": "ntk", "factor": 4}), "type 'ntk'; built are"),
        (RopeConfig(scaling={"type": "su"}), "type 'su'; built are"),
        (RopeConfig(scaling={"rope_type": "linear"}), "factor None; it must be a number"),
        (RopeConfig(sections=(1, 2)), "add up to 3; head size 8 needs 4"),
    ],
)
def test_what_isnt_built_is_refused_by_name(config: RopeConfig, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Rope(config, 8, CPU)
