"""Sounds that are computed: tones, beeps, beats, and the noise and the room around them.

Everything is float32, mono, 16,000 samples a second, full scale 1. Nothing here knows a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.float32]
Rng: TypeAlias = np.random.Generator

RATE = 16_000
#: Timbre → the strengths of its harmonics. Training never hears the held-out one.
TIMBRES: dict[str, tuple[float, ...]] = {
    "sine": (1.0,),
    "reed": (1.0, 0.0, 0.35, 0.0, 0.2),
    "string": (1.0, 0.5, 0.33, 0.25),
    "flute": (1.0, 0.15, 0.05),
    "organ": (1.0, 0.6, 0.0, 0.4),
}
HELD_OUT_TIMBRE = "organ"
_FADE_S = 0.008


def tone(timbre: str, start_hz: float, end_hz: float, seconds: float) -> Samples:
    """A tone that glides evenly in pitch from one frequency to another, faded at both ends."""
    count = max(2, round(seconds * RATE))
    octaves = np.log2(end_hz / start_hz) / count
    turns = np.arange(count) * (start_hz / RATE)
    if octaves:  # the integral of a frequency that grows as a power of two
        slope = octaves * np.log(2.0)
        turns = start_hz / RATE * np.expm1(slope * np.arange(count)) / slope
    phase = (2 * np.pi * (turns - np.floor(turns))).astype(np.float32)
    wave = np.zeros(count, dtype=np.float32)
    for index, strength in enumerate(TIMBRES[timbre]):
        harmonic = index + 1
        if strength and harmonic * max(start_hz, end_hz) < 0.45 * RATE:
            wave += np.float32(strength) * np.sin(np.float32(harmonic) * phase)
    fade = min(round(_FADE_S * RATE), count // 2)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    wave[:fade] *= ramp
    wave[count - fade :] *= ramp[::-1]
    wave *= np.float32(0.5) / np.abs(wave).max()
    return wave


def beats(sound: Samples, starts_s: Sequence[float]) -> Samples:
    """One sound several times, each beginning at one of the given seconds."""
    starts = [round(start * RATE) for start in starts_s]
    whole = np.zeros(max(starts) + len(sound), dtype=np.float32)
    for start in starts:
        whole[start : start + len(sound)] += sound
    return whole


def placed(rng: Rng, sound: Samples, seconds: float) -> Samples:
    """The sound somewhere in silence, ``seconds`` in all.

    Raises:
        ValueError: the sound is longer than that.
    """
    count = round(seconds * RATE)
    if len(sound) > count:
        raise ValueError(f"a sound of {len(sound)} samples doesn't fit into {count}")
    clip = np.zeros(count, dtype=np.float32)
    start = int(rng.integers(0, count - len(sound) + 1))
    clip[start : start + len(sound)] = sound
    return clip


def recorded(rng: Rng, clip: Samples) -> Samples:
    """As a microphone may hear it: sometimes in a room, over some noise, louder or quieter."""
    heard = clip.astype(np.float64)
    if rng.random() < 0.35:
        heard = _in_a_room(rng, heard)
    peak = np.abs(heard).max()
    if peak > 0:
        heard *= 10 ** rng.uniform(-1.2, -0.1) / peak
        heard += _noise(rng, len(heard)) * np.abs(heard).max() * 10 ** rng.uniform(-3.0, -1.3)
    return np.clip(heard, -1.0, 1.0).astype(np.float32)


def _in_a_room(rng: Rng, clip: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convolved with a decaying noise behind the direct sound."""
    length = round(rng.uniform(0.05, 0.25) * RATE)
    decay = np.exp(-6.9 * np.arange(length) / length)
    response = rng.standard_normal(length) * decay * rng.uniform(0.05, 0.25)
    response[0] = 1.0
    size = _fast_size(len(clip) + length - 1)
    spectrum = np.fft.rfft(clip, size) * np.fft.rfft(response, size)
    return np.asarray(np.fft.irfft(spectrum, size)[: len(clip)])


def _noise(rng: Rng, count: int) -> npt.NDArray[np.float64]:
    """White noise, or noise whose power falls with the frequency; its deviation is about 1."""
    tape = noise_tapes()[int(rng.integers(0, 2))]
    start = int(rng.integers(0, len(tape) - count))
    return tape[start : start + count]


@lru_cache(maxsize=1)
def noise_tapes() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A minute of each kind of noise, of which clips have parts: drawing it anew is slow."""
    white = np.random.default_rng(0).standard_normal(2**20)
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.arange(len(spectrum)) + 100.0)
    colored = np.fft.irfft(spectrum, len(white))
    return white, colored / colored.std()


def _fast_size(count: int) -> int:
    """The power of two from ``count`` on: other sizes may take many times as long."""
    return 1 << (count - 1).bit_length()
