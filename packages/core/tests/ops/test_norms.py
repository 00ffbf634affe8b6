"""RMS normalisation against its formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sensorium.ops import rms_norm


@given(st.sampled_from([(1, 1), (3, 8), (2, 4, 16), (0, 8)]), st.sampled_from([1e-6, 1e-2]))
def test_rows_are_divided_by_their_root_mean_square(shape: tuple[int, ...], eps: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(shape[-1], generator=generator, dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    result = rms_norm(x.float(), weight.float(), eps)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_squares_in_float32(dtype: torch.dtype) -> None:
    x = torch.full((1, 64), 3e2, dtype=dtype)  # the square of 3e2 overflows float16
    assert torch.allclose(
        rms_norm(x, torch.ones(64, dtype=dtype), 1e-6), torch.ones((), dtype=dtype)
    )
