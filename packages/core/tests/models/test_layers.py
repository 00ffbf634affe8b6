"""Building blocks whose stored shapes aren't those of the published weights."""

from __future__ import annotations

import pytest
import torch

from sensorium.models.layers import GatedMLP, fused_slots, weight_slots

CPU = torch.device("cpu")


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_padding_is_neither_seen_nor_felt(act: str) -> None:
    plain = GatedMLP(16, 10, act, bias=True, dtype=torch.float32, device=CPU)
    padded = GatedMLP(16, 10, act, bias=True, dtype=torch.float32, device=CPU, multiple=8)
    assert padded.down_proj.weight.shape == (16, 16)
    slots, own = weight_slots(plain), weight_slots(padded)
    assert {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in slots.items()}
    generator = torch.Generator().manual_seed(0)
    for name, slot in slots.items():
        slot.copy_(torch.randn(slot.shape, generator=generator))
        own[name].copy_(slot)
    x = torch.randn(5, 16, generator=generator)
    torch.testing.assert_close(padded(x), plain(x), rtol=1e-5, atol=1e-5)
    assert fused_slots(padded) == {}, "a file's fused matrix has no padding"
    assert fused_slots(plain)
