"""Whisper's log-mel spectrogram (Radford et al. 2022), on the CPU.

    samples ─ frames of 400, every 160, reflected at the ends ─ Hann ─ |DFT|² ─ mel filters
            ─ log10, at least 1e-10 ─ floor: 8 below the clip's maximum ─ (x + 4) / 4

The maximum is the whole clip's, so the spectrogram is made of whole clips and cut afterwards.

Spectra and filters are core's (``sensorium.ops.log_spectra``), which transforms in float64: in
float32, what a loud tone leaves in the other filters is rounding noise as large as 1e-4.

Sources: openai/whisper's ``log_mel_spectrogram`` for the steps; Slaney's Auditory Toolbox (1998)
for the mel scale and its norm.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sensorium.ops import log_spectra
from sensorium_media_audio.mixdown import FloatArray

RATE = 16_000
WINDOW, HOP = 400, 160
NUM_FREQUENCIES = WINDOW // 2 + 1
MAX_HZ = 8_000.0
_DYNAMIC_RANGE = 8.0  # decades


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
    padded = _padded(samples, frames * HOP)[: (frames - 1) * HOP + WINDOW]
    window, filters = _constants(num_bins)
    mel = log_spectra(padded, window, filters, HOP, least=1e-10)
    torch.add(1.0, mel, alpha=0.25, out=mel)
    return mel.clamp_(min=float(mel.max()) - _DYNAMIC_RANGE / 4.0)


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
def _constants(num_bins: int) -> tuple[Tensor, Tensor]:
    """The window in float64, and the filters in float32."""
    window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    return window, torch.from_numpy(mel_filters(num_bins)).float()


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
