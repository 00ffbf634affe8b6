"""Log power spectra through a bank of filters: the compiled op, plain torch, and the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from extension_cases import at_level, cpu_levels, require
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sensorium.ops import extension, log_spectra

#: Half of each is a product of 2, 3 and 5: every radix, alone and in company.
SIZES = [4, 6, 10, 16, 18, 20, 32, 48, 50, 60, 72, 128, 200, 360, 400, 480, 512]


LEAST = 1e-10


@pytest.fixture(autouse=True)
def _best_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)


def draw(size: int, rows: int, filters: int, hop: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, a window, and a bank whose filters see some neighbouring frequencies each."""
    rng = np.random.default_rng(seed)
    bank = np.zeros((size // 2 + 1, filters), dtype=np.float32)
    for column in bank.T:
        begin, end = np.sort(rng.integers(0, len(bank) + 1, 2))
        column[begin:end] = rng.uniform(0, 1, end - begin)
    samples = rng.standard_normal(size + (rows - 1) * hop).astype(np.float32)
    return tuple(map(torch.from_numpy, (samples, rng.uniform(0, 1, size), bank)))  # type: ignore[return-value]


def formula(samples: Tensor, window: Tensor, bank: Tensor, hop: int) -> Tensor:
    """The transform as a matrix, all in float64."""
    size = len(window)
    frequencies = np.outer(np.arange(size), np.arange(size // 2 + 1)) % size
    matrix = torch.from_numpy(np.exp(-2j * np.pi * frequencies / size))
    rows = samples.double().unfold(0, size, hop) * window
    power = (rows.to(matrix.dtype) @ matrix).abs().square()
    return (power @ bank.double()).clamp(min=LEAST).log10()


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    rows=st.integers(1, 21),
    filters=st.integers(1, 9),
    hop=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_it_is_the_formula(size: int, rows: int, filters: int, hop: int, seed: int) -> None:
    require("cpu", torch.float32)
    arguments = draw(size, rows, filters, hop, seed)
    wanted = formula(*arguments, hop)
    for level in cpu_levels():
        before = extension.CALLS["cpu.log_spectra"]
        with at_level(level):
            out = log_spectra(*arguments, hop, LEAST)
        assert extension.CALLS["cpu.log_spectra"] == before + 1
        assert out.shape == (rows, filters)
        torch.testing.assert_close(out.double(), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [400, 14, 9, 2, 26])
def test_plain_torch_gives_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves where the extension isn't, and other sizes of windows."""
    arguments = draw(size, 300, 5, 7, 0)
    out = log_spectra(*arguments, 7, LEAST)
    monkeypatch.setenv("SENSORIUM_ATTENTION", "reference")
    plain = log_spectra(*arguments, 7, LEAST)
    wanted = formula(*arguments, 7)
    torch.testing.assert_close(plain.double(), wanted, rtol=0, atol=2e-6)
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=2e-6)


def test_a_row_does_not_depend_on_the_others() -> None:
    """Rows are transformed together; in any company the result is the same to the bit."""
    samples, window, bank = draw(400, 30, 80, 160, 3)
    whole = log_spectra(samples, window, bank, 160, LEAST)
    for row in (0, 1, 13, 29):
        alone = log_spectra(samples[row * 160 : row * 160 + 400].clone(), window, bank, 160, LEAST)
        assert torch.equal(alone[0], whole[row])


def test_a_weak_frequency_beside_a_strong_one_is_kept() -> None:
    """A hundred and forty decibels below it, which float32 would not hold."""
    n = np.arange(400)
    samples = np.cos(2 * np.pi * 40 * n / 400) + 1e-7 * np.cos(2 * np.pi * 160 * n / 400)
    samples32 = torch.from_numpy(samples.astype(np.float32))
    rounding = samples32.double().numpy() - samples
    bank = torch.zeros(201, 1)
    bank[160] = 1.0
    out = log_spectra(samples32, torch.ones(400, dtype=torch.float64), bank, 1, 1e-30)
    wanted = 2 * np.log10(abs(np.fft.rfft(samples + rounding)[160]))
    assert float(out) == pytest.approx(wanted, abs=1e-5)


def test_logarithms_over_the_whole_range() -> None:
    """From the smallest normal number to the largest, and what is less counts as ``least``."""
    least = float(np.finfo(np.float32).tiny)
    weights = torch.from_numpy(np.geomspace(1e-40, 3e38, 4001).astype(np.float32))
    samples, window = torch.tensor([1.0, 0, 0, 0]), torch.ones(4, dtype=torch.float64)
    bank = torch.zeros(3, len(weights))
    bank[0] = weights
    wanted = weights.double().clamp(min=least).log10()
    for level in cpu_levels():
        with at_level(level):
            out = log_spectra(samples, window, bank, 1, least)
        torch.testing.assert_close(out[0].double(), wanted, rtol=2e-7, atol=1e-7)
