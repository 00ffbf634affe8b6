"""Power spectra of overlapping windows, weighed by a bank of filters, as logarithms."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sensorium.ops import extension

#: Rows that plain torch transforms together: few enough for the processor's cache.
_BLOCK_ROWS = 128


def log_spectra(samples: Tensor, window: Tensor, bank: Tensor, hop: int, least: float) -> Tensor:
    """log10 of Σ_k |Σ_n samples[r · hop + n] · window[n] · e^(-2πi kn / size)|² · bank[k, f].

    The transform is computed in float64, the sum and its logarithm in float32: what a strong
    frequency leaves in the others by rounding in float32 is easily more than what is there.

    Args:
        samples: (n,) float32, finite.
        window: (size,) float64, ``size`` ≤ n.
        bank: (size // 2 + 1, filters) float32.
        hop: samples from one row's first to the next one's.
        least: what counts as the smallest sum, a normal number of float32.

    Returns:
        (1 + (n - size) // hop, filters) float32. A row's numbers don't depend on the others.
    """
    if _is_compiled(len(window)) and extension.serves(samples) and samples.device.type == "cpu":
        extension.count(samples, "log_spectra")
        out: Tensor = torch.ops.sensorium.log_spectra(samples, window, bank, hop, least)
        return out
    rows = samples.unfold(0, len(window), hop)
    out = samples.new_empty(len(rows), bank.shape[1])
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        spectrum = torch.view_as_real(torch.fft.rfft(rows[block].double() * window))
        out[block] = spectrum.square().sum(-1).float() @ bank
    return out.clamp_(min=least).log10_()


@functools.cache
def _is_compiled(size: int) -> bool:
    """Whether the extension transforms so many samples: an even number, half of it 5-smooth."""
    half, rest = divmod(size, 2)
    for prime in (2, 3, 5):
        while half and half % prime == 0:
            half //= prime
    return size > 2 and rest == 0 and half == 1
