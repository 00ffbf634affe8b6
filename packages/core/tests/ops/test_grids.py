"""Grids, cut and resampled: against torch's ``unfold`` and ``interpolate``, at every level."""

from __future__ import annotations

import pytest
import torch
from extension_cases import at_level, cpu_levels, require
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import cubic_sample, cut_blocks, extension, grids

SIDE = st.integers(1, 70)
CHANNELS = st.sampled_from([1, 2, 3, 4])
SIZES = st.sampled_from([1, 2, 3, 13, 14, 16])
DTYPES = st.sampled_from([torch.uint8, torch.float32])
BACKENDS = pytest.mark.parametrize("backend", ["compiled", "reference"])
#: Of values up to 255. torch's own positions are float32, and steps between cells are large.
ATOL = {"compiled": 3e-4, "reference": 5e-3}


def drawn(*size: int, dtype: torch.dtype = torch.uint8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, size, generator=generator).to(dtype)


def unfolded(x: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """What a convolution with blocks of this size would see."""
    values = (x.float() - mean) / std
    return F.unfold(values.permute(0, 3, 1, 2), size, stride=size).transpose(1, 2)


def interpolated(x: Tensor, rows: int, columns: int) -> Tensor:
    planes = x.double().permute(2, 0, 1)[None]
    return F.interpolate(planes, (rows, columns), mode="bicubic")[0].permute(1, 2, 0)


@pytest.fixture(autouse=True)
def _best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)


def switch(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "compiled":
        require("cpu", torch.float32)
        assert grids._functions(), "the library is older than csrc/cpu/grids.cpp: build it anew"
    else:
        monkeypatch.setenv("SENSORIUM_ATTENTION", "reference")


@BACKENDS
def test_blocks_are_what_a_convolution_sees(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: a difference and a quotient are each rounded once."""
    switch(backend, monkeypatch)
    calls = extension.CALLS["cpu.cut_blocks"]

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 3), SIZES, SIDE, SIDE, CHANNELS, DTYPES, st.integers(0, 2**31))
    def check(
        batch: int, size: int, height: int, width: int, channels: int, dtype: torch.dtype, seed: int
    ) -> None:
        height, width = max(height, size), max(width, size)
        x = drawn(batch, height, width, channels, dtype=dtype, seed=seed)
        mean = drawn(channels, dtype=torch.float32, seed=seed + 1) / 2
        std = 1 + drawn(channels, dtype=torch.float32, seed=seed + 2) / 3
        before = x.clone()
        found = cut_blocks(x, size, mean, std)
        assert torch.equal(x, before)
        assert found.is_contiguous()
        assert torch.equal(found, unfolded(x, size, mean, std))

    check()
    assert (extension.CALLS["cpu.cut_blocks"] > calls) == (backend == "compiled")


@BACKENDS
def test_samples_are_interpolates(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    switch(backend, monkeypatch)
    before = extension.CALLS["cpu.cubic_sample"]

    @settings(max_examples=60, deadline=None)
    @given(SIDE, SIDE, SIDE, SIDE, CHANNELS, st.integers(0, 2**31))
    def check(height: int, width: int, rows: int, columns: int, channels: int, seed: int) -> None:
        x = drawn(height, width, channels, seed=seed)
        found = cubic_sample(x, rows, columns)
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), interpolated(x, rows, columns), rtol=0, atol=ATOL[backend]
        )

    check()
    assert (extension.CALLS["cpu.cubic_sample"] > before) == (backend == "compiled")


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
def test_whole_factors_are_exact(factor: int) -> None:
    """Their weights are thirty-seconds, and sums of bytes by them have no rounding."""
    x = drawn(14 * factor, 20 * factor, 3)
    assert torch.equal(cubic_sample(x, 14, 20).double(), interpolated(x, 14, 20))


@pytest.mark.parametrize("level", cpu_levels())
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [3, 4])
def test_every_level(level: str, dtype: torch.dtype, channels: int) -> None:
    x = drawn(2, 61, 90, channels, dtype=dtype)
    mean, std = torch.linspace(3, 90, channels), torch.linspace(7, 60, channels)
    with at_level(level):
        cut, sampled = cut_blocks(x, 14, mean, std), cubic_sample(drawn(61, 90, channels), 33, 50)
    assert torch.equal(cut, unfolded(x, 14, mean, std))
    expected = interpolated(drawn(61, 90, channels), 33, 50)
    torch.testing.assert_close(sampled.double(), expected, rtol=0, atol=5e-3)


def test_views_of_other_grids_and_threads() -> None:
    """What isn't contiguous is copied; any number of threads gives the same."""
    wide = drawn(3, 80, 120, 4)
    mean, std = torch.ones(3), torch.full((3,), 2.0)
    view = wide[:, 5:, 10:, :3]
    expected = unfolded(view, 14, mean, std)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(cut_blocks(view, 14, mean, std), expected)
            sampled = cubic_sample(view[0], 30, 40).double()
            torch.testing.assert_close(sampled, interpolated(view[0], 30, 40), rtol=0, atol=5e-3)
    finally:
        torch.set_num_threads(threads)


@BACKENDS
def test_what_does_not_fit_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    switch(backend, monkeypatch)
    x, one = drawn(1, 28, 28, 3), torch.ones(3)
    with pytest.raises(AssertionError, match="for each channel"):
        cut_blocks(x, 14, torch.ones(2), one)
    with pytest.raises(AssertionError, match="no cells"):
        cut_blocks(x, 0, one, one)
    with pytest.raises(AssertionError, match=r"cells of torch\.int64"):
        cut_blocks(x.long(), 14, one, one)
    with pytest.raises(AssertionError, match="constants in float32"):
        cut_blocks(x, 14, one.double(), one)
    with pytest.raises(AssertionError, match=r"cells of torch\.float32"):
        cubic_sample(x[0].float(), 14, 14)


@pytest.mark.gpu
def test_a_gpu_gives_the_same() -> None:
    x = drawn(2, 90, 70, 3)
    mean, std = torch.linspace(3, 90, 3), torch.linspace(7, 60, 3)
    there = cut_blocks(x.cuda(), 14, mean.cuda(), std.cuda())
    torch.testing.assert_close(there.cpu(), unfolded(x, 14, mean, std), rtol=0, atol=1e-5)
    sampled = cubic_sample(x[0].cuda(), 45, 35).cpu().double()
    torch.testing.assert_close(sampled, interpolated(x[0], 45, 35), rtol=0, atol=5e-3)
