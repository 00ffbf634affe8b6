"""Clips of dry sounds, and their spectrograms, on the device: anew each time that a batch is used.

The same as ``tones.placed``, ``tones.recorded`` and the engine's ``log_mel`` do one by one on the
CPU, for a whole batch; so a drawn sound is heard many times and never twice the same.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from sound_files import NUM_MEL_BINS
from torch import Tensor

from sensorium_media_audio.mel import HOP, RATE, WINDOW, mel_filters
from sensorium_tiny_models import tones

#: Samples of the longest room's echo.
_ECHO = round(0.25 * RATE)
_ROOM_SHARE = 0.35


def heard(sounds: Tensor) -> Tensor:
    """Dry sounds (n, samples) int16, zeros behind each → spectrograms (n, frames, bins) float16."""
    with torch.autocast(sounds.device.type, enabled=False):
        return spectrograms(recorded(placed(sounds.float() / 32_768))).half()


def placed(sounds: Tensor) -> Tensor:
    """Each sound somewhere in its row."""
    n, count = sounds.shape
    behind = (sounds.flip(1) != 0).to(torch.uint8).argmax(dim=1)
    start = (torch.rand(n, device=sounds.device) * (behind + 1)).long().clamp(max=count - 1)
    places = torch.arange(count, device=sounds.device) - start[:, None]
    return sounds.gather(1, places % count)


def recorded(clips: Tensor) -> Tensor:
    """Some in a room; each over some noise, and louder or quieter."""
    n, count = clips.shape
    in_room = torch.randperm(n, device=clips.device)[: round(_ROOM_SHARE * n)]
    clips = clips.index_copy(0, in_room, _in_a_room(clips[in_room]))
    peak = clips.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
    loudness = 10 ** _uniform(n, clips.device, -1.2, -0.1)
    noise = _noise(n, count, clips.device) * loudness * 10 ** _uniform(n, clips.device, -3.0, -1.3)
    return (clips * (loudness / peak) + noise).clamp(-1.0, 1.0)


def spectrograms(clips: Tensor) -> Tensor:
    """Whisper's log-mel of clips of whole hops: (n, frames, bins) float32."""
    window = torch.hann_window(WINDOW, dtype=torch.float64, device=clips.device)
    spectrum = torch.stft(
        clips.double(), WINDOW, HOP, window=window, center=True, pad_mode="reflect",
        return_complex=True,
    )[..., :-1]  # fmt: skip
    power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
    logs = (power @ _filters(clips.device)).clamp(min=1e-10).log10()
    floor = logs.amax(dim=(1, 2), keepdim=True) - 8.0
    return ((torch.maximum(logs, floor) + 4.0) / 4.0).float()


def _in_a_room(clips: Tensor) -> Tensor:
    """Convolved with a decaying noise behind the direct sound."""
    n, count = clips.shape
    time = torch.arange(_ECHO, device=clips.device)
    length = _uniform(n, clips.device, 0.05, 0.25) * RATE
    decay = torch.exp(-6.9 * time / length) * (time < length)
    response = torch.randn(n, _ECHO, device=clips.device) * decay
    response *= _uniform(n, clips.device, 0.05, 0.25)
    response[:, 0] = 1.0
    size = 1 << (count + _ECHO - 2).bit_length()
    spectrum = torch.fft.rfft(clips, size) * torch.fft.rfft(response, size)
    return torch.fft.irfft(spectrum, size)[:, :count]


def _noise(n: int, count: int, device: torch.device) -> Tensor:
    """Parts of the tapes of noise."""
    tapes = _tapes(device)
    tape = torch.randint(0, 2, (n, 1), device=device) * tapes.shape[1]
    start = torch.randint(0, tapes.shape[1] - count, (n, 1), device=device)
    return tapes.view(-1)[tape + start + torch.arange(count, device=device)]


def _uniform(n: int, device: torch.device, low: float, high: float) -> Tensor:
    return torch.rand(n, 1, device=device) * (high - low) + low


@lru_cache(maxsize=1)
def _tapes(device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(tones.noise_tapes())).float().to(device)


@lru_cache(maxsize=1)
def _filters(device: torch.device) -> Tensor:
    return torch.from_numpy(mel_filters(NUM_MEL_BINS)).to(device)
