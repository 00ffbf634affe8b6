"""RMS normalisation against its formula."""

from __future__ import annotations

import pytest
import torch
from attention_backends import Attention
from extension_cases import require
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.ops import add_rms_norm, rms_norm


@settings(deadline=None)
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


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("reference", torch.float32),
        ("reference", torch.float16),
        ("reference", torch.bfloat16),
        ("paged", torch.float32),
        ("paged", torch.bfloat16),
    ],
)
@pytest.mark.parametrize(("wide", "offset"), [(True, 1.0), (True, 0.0), (False, 0.0)])
def test_published_norms_are_met_to_the_bit(
    backend: str, dtype: torch.dtype, wide: bool, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the product is rounded tells Llama's, OLMo 2's and Gemma's norms apart."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

    if backend == "paged":
        require("cpu", dtype)
    monkeypatch.setenv("SENSORIUM_ATTENTION", backend)
    attention = Attention(backend)
    classes = {(True, 1.0): Gemma3RMSNorm, (True, 0.0): Olmo2RMSNorm, (False, 0.0): LlamaRMSNorm}
    theirs = classes[wide, offset](96, eps=1e-6).to(dtype)
    generator = torch.Generator().manual_seed(0)
    weight = (0.5 * torch.randn(96, generator=generator) + 1 - offset).to(dtype)
    theirs.weight.data.copy_(weight)
    x = (3 * torch.randn(50, 4, 100, generator=generator)).to(dtype)[..., :96]
    expected = theirs(x)
    result = rms_norm(x, weight, 1e-6, wide=wide, offset=offset)
    # The sum of squares may be added up in another order: a float32's last bits, and where such
    # a bit decides a rounding, one step of the narrower dtype.
    assert (result == expected).float().mean() > (0.5 if dtype == torch.float32 else 0.998)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(result, expected, rtol=3 * step, atol=step)
    # The other forms are further off: what is compared does tell them apart.
    other = rms_norm(x, weight, 1e-6, wide=not wide) if not offset else rms_norm(x, weight, 1e-6)
    if dtype != torch.float32:
        assert (other == expected).float().mean() < 0.95
    residual = torch.randn(50, 96, generator=generator).to(dtype)
    y = x[:, 0]
    normed, total = add_rms_norm(y, residual.clone(), weight, 1e-6, wide=wide, offset=offset)
    assert torch.equal(total, y + residual)
    torch.testing.assert_close(normed, theirs(y + residual), rtol=3 * step, atol=step)
    attention.assert_ran("rms_norm", "add_rms_norm")


def test_an_offset_needs_the_wide_form() -> None:
    x, weight = torch.ones(2, 8), torch.ones(8)
    with pytest.raises((AssertionError, RuntimeError), match="offset"):
        rms_norm(x, weight, 1e-6, offset=1.0)
