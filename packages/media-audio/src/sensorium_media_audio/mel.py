"""Whisper's log-mel spectrogram (Radford et al. 2022), on the CPU.

    samples ─ frames of 400, every 160, reflected at the ends ─ Hann ─ |DFT|² ─ mel filters
            ─ log10, at least 1e-10 ─ floor: 8 below the clip's maximum ─ (x + 4) / 4

The maximum is the whole clip's, so the spectrogram is made of whole clips and cut afterwards.

The spectrum is computed in float64: in float32, what a loud tone leaves in the other filters is
rounding noise as large as 1e-4. The power that the filters add up is float32. Two sizes of block
keep the work in the processor's cache: windows and spectra go through buffers of
``_BLOCK_FRAMES`` frames, and the products with the filters take ``_GROUP_FRAMES`` at once, because
a small product spends its time on being set up.

Sources: openai/whisper's ``log_mel_spectrogram`` for the steps; Slaney's Auditory Toolbox (1998)
for the mel scale and its norm.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sensorium_media_audio.mixdown import FloatArray

RATE = 16_000
WINDOW, HOP = 400, 160
NUM_FREQUENCIES = WINDOW // 2 + 1
MAX_HZ = 8_000.0
#: Frames whose windows (410 kB) and spectra are in the cache together.
_BLOCK_FRAMES = 128
#: Frames whose power (820 kB) goes through the filters together; a multiple of the block's.
_GROUP_FRAMES = 1024
#: Filters in a band. A filter sees few frequencies, so each band is multiplied by its own only.
_BAND_FILTERS = 16
_DYNAMIC_RANGE = 8.0  # decades


class _Band(NamedTuple):
    """Neighbouring filters: which they are, the frequencies they see, and their weights."""

    bins: slice
    frequencies: slice
    weights: Tensor


def num_frames(num_samples: int) -> int:
    """Frames of a clip, whose last hop counts as a whole one."""
    return -(-num_samples // HOP)


def log_mel(samples: FloatArray, num_bins: int) -> Tensor:
    """The spectrogram of a clip.

    Args:
        samples: (samples,) at 16 kHz, two hops at least; the last hop is padded with silence.
        num_bins: mel filters.

    Returns:
        (frames, num_bins) float32, one frame for each hop begun.
    """
    frames = num_frames(len(samples))
    padded = _padded(samples, frames * HOP)
    bands = _bands(num_bins)
    power = torch.empty(min(_GROUP_FRAMES, frames), NUM_FREQUENCIES)
    mel = torch.empty(frames, num_bins)
    maximum = -np.inf
    spectra = _Spectra()
    for start in range(0, frames, _GROUP_FRAMES):
        stop = min(start + _GROUP_FRAMES, frames)
        for first in range(start, stop, _BLOCK_FRAMES):
            last = min(first + _BLOCK_FRAMES, stop)
            spectra.power(padded, first, power[first - start : last - start])
        part = mel[start:stop]
        for band in bands:
            seen = power[: stop - start, band.frequencies]
            torch.mm(seen, band.weights, out=part[:, band.bins])
        part.clamp_(min=1e-10).log10_().add_(4.0).div_(4.0)
        maximum = max(maximum, float(part.max()))
    return mel.clamp_(min=maximum - _DYNAMIC_RANGE / 4.0)


class _Spectra:
    """Samples → power, a block of frames at a time, in buffers that all blocks of a clip share."""

    def __init__(self) -> None:
        self._samples = torch.empty((_BLOCK_FRAMES - 1) * HOP + WINDOW, dtype=torch.float64)
        self._windows = torch.empty(_BLOCK_FRAMES, WINDOW, dtype=torch.float64)
        self._squares = torch.empty(_BLOCK_FRAMES, NUM_FREQUENCIES, 2)
        self._hann = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)

    def power(self, padded: Tensor, first: int, out: Tensor) -> None:
        """|DFT|² of the frames from ``first`` on, into ``out`` (frames, frequencies) float32.

        Args:
            padded: what ``_padded`` returned.
        """
        frames = len(out)
        num_samples = (frames - 1) * HOP + WINDOW
        start = first * HOP
        self._samples[:num_samples].copy_(padded[start : start + num_samples])
        frames_of_samples = self._samples.unfold(0, WINDOW, HOP)[:frames]
        windows = torch.mul(frames_of_samples, self._hann, out=self._windows[:frames])
        spectrum = torch.view_as_real(torch.fft.rfft(windows))
        squares = self._squares[:frames].copy_(spectrum).square_()
        torch.add(squares[..., 0], squares[..., 1], out=out)


def _padded(samples: FloatArray, length: int) -> Tensor:
    """Silence up to ``length`` samples, then half a window at both ends, reflected; float32."""
    half = WINDOW // 2
    padded = np.empty(length + WINDOW, dtype=np.float32)
    clip = padded[half : half + length]
    clip[: len(samples)] = samples
    clip[len(samples) :] = 0.0
    padded[:half] = clip[half:0:-1]
    padded[half + length :] = clip[-2 : -half - 2 : -1]
    return torch.from_numpy(padded)


@lru_cache(maxsize=4)
def _bands(num_bins: int) -> tuple[_Band, ...]:
    filters = torch.from_numpy(mel_filters(num_bins)).float()
    bands = []
    for start in range(0, num_bins, _BAND_FILTERS):
        bins = slice(start, min(start + _BAND_FILTERS, num_bins))
        seen = filters[:, bins].any(dim=1).nonzero().ravel()
        frequencies = slice(int(seen[0]), int(seen[-1]) + 1)
        bands.append(_Band(bins, frequencies, filters[frequencies, bins].contiguous()))
    return tuple(bands)


def mel_filters(num_bins: int) -> np.ndarray:
    """Triangles over the frequencies of the DFT, equally wide on Slaney's scale, each of area 1.

    Returns:
        (frequencies, num_bins) float64.
    """
    corners = _mel_to_hz(np.linspace(0.0, _hz_to_mel(MAX_HZ), num_bins + 2))
    frequencies = np.linspace(0.0, RATE / 2, NUM_FREQUENCIES)
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies[:, None] - left) / (middle - left)
    falling = (right - frequencies[:, None]) / (right - middle)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(triangles * (2.0 / (right - left)))


# Slaney's scale: linear up to 1 kHz, logarithmic above, 27 mels for a factor of 6.4.
_LINEAR_HZ = 200.0 / 3.0
_KNEE_HZ = 1_000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ
_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    if hz < _KNEE_HZ:
        return hz / _LINEAR_HZ
    return float(_KNEE_MEL + np.log(hz / _KNEE_HZ) / _LOG_STEP)


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (mels - _KNEE_MEL))
    return np.where(mels < _KNEE_MEL, mels * _LINEAR_HZ, above)
