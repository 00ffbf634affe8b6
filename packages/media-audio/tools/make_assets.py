"""Computes the package's sounds: python packages/media-audio/tools/make_assets.py

Each is a few seconds at 16 kHz, by a formula and a seed. Ogg gives every file another serial
number, so two runs differ in bytes and not in sound.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
FOLDER = Path(__file__).parents[1] / "src" / "sensorium_media_audio" / "asset_files"
#: A nursery rhyme's first line in half tones above A4, and how many beats each note lasts.
MARY = [(7, 1), (5, 1), (3, 1), (5, 1), (7, 1), (7, 1), (7, 2), (5, 1), (5, 1), (5, 2)]


def note(half_tones: float, seconds: float) -> np.ndarray:
    """A plucked tone with overtones."""
    t = np.arange(int(seconds * RATE)) / RATE
    f = 440 * 2 ** (half_tones / 12)
    overtones = sum(np.sin(2 * np.pi * k * f * t) / k**2 for k in range(1, 6))
    return np.asarray(overtones * np.exp(-3 * t) * np.minimum(1, t / 0.01))


def mary_had_lamb() -> np.ndarray:
    """The melody of the rhyme."""
    return np.concatenate([note(pitch, 0.3 * beats) for pitch, beats in MARY])


def winning_call() -> np.ndarray:
    """A crowd that swells, a fanfare over it, and a whistle."""
    rng = np.random.default_rng(7)
    t = np.arange(4 * RATE) / RATE
    noise = np.convolve(rng.standard_normal(len(t)), np.hanning(24) / 12, mode="same")
    sound = 0.5 * noise * np.clip(t / 2, 0.1, 1)
    for at, pitch in ((0.6, -2), (0.9, 3), (1.2, 7), (1.5, 10)):
        tone = note(pitch, 0.8)
        start = int(at * RATE)
        sound[start : start + len(tone)] += tone
    whistle = np.sin(2 * np.pi * 2600 * t + 12 * np.sin(2 * np.pi * 30 * t))
    return sound + 0.6 * whistle * ((t > 2.6) & (t < 3.5))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for draw in (mary_had_lamb, winning_call):
        samples = draw()
        samples = (0.7 / np.abs(samples).max() * samples).astype(np.float32)
        file = FOLDER / f"{draw.__name__}.ogg"
        soundfile.write(file, samples, RATE, format="OGG", subtype="VORBIS")
        print(file.name, file.stat().st_size, "bytes")
