"""The spectrogram equals transformers', and one in double precision that is written out here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from sensorium_media_audio.mel import log_mel, mel_filters, num_frames

RATE = 16_000
SECONDS = np.arange(3 * RATE) / RATE
SIGNALS = {
    "noise": 0.1 * np.random.default_rng(0).standard_normal(len(SECONDS)),
    "a low tone": 0.8 * np.sin(2 * np.pi * 110 * SECONDS),
    "a tone between bins": 0.9 * np.sin(2 * np.pi * 3999.7 * SECONDS),
    "a high tone": 0.5 * np.sin(2 * np.pi * 7900 * SECONDS),
    "a sweep": 0.7 * np.sin(2 * np.pi * (50 * SECONDS + 1300 * SECONDS**2)),
    "quiet": 1e-4 * np.sin(2 * np.pi * 1000 * SECONDS),
    "silence": 0 * SECONDS,
    "a click": (np.arange(len(SECONDS)) == 20_000).astype(float),
    "loud, then quiet": np.where(SECONDS < 1, 1, 1e-5) * np.sin(2 * np.pi * 300 * SECONDS),
}


def theirs(samples: np.ndarray, num_bins: int) -> np.ndarray:
    extractor = WhisperFeatureExtractor(feature_size=num_bins)
    features = extractor(
        samples,
        sampling_rate=RATE,
        padding="longest",
        pad_to_multiple_of=160,
        truncation=False,
        return_tensors="np",
    )
    return np.asarray(features.input_features[0].T)


def written_out(samples: np.ndarray, num_bins: int) -> np.ndarray:
    """The steps one by one in float64."""
    frames = num_frames(len(samples))
    signal = np.pad(samples.astype(np.float64), (0, frames * 160 - len(samples)))
    padded = np.pad(signal, 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    windows = np.stack([padded[i * 160 : i * 160 + 400] * window for i in range(frames)])
    power = np.abs(np.fft.rfft(windows)) ** 2
    logs = np.log10(np.maximum(power @ mel_filters(num_bins), 1e-10))
    return np.asarray((np.maximum(logs, logs.max() - 8) + 4) / 4)


@pytest.mark.parametrize("num_bins", [80, 128])
@pytest.mark.parametrize("name", SIGNALS)
def test_it_is_whispers(name: str, num_bins: int) -> None:
    samples = SIGNALS[name].astype(np.float32)
    ours = log_mel(samples, num_bins)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous()
    assert np.abs(ours.numpy() - theirs(samples, num_bins)).max() < 1e-4
    assert np.abs(ours.numpy() - written_out(samples, num_bins)).max() < 1e-5


@pytest.mark.parametrize("length", [320, 321, 399, 400, 479, 480, 16_000, 20_479, 20_481])
def test_lengths(length: int) -> None:
    samples = SIGNALS["noise"][:length].astype(np.float32)
    ours = log_mel(samples, 128)
    assert len(ours) == -(-length // 160)
    assert np.abs(ours.numpy() - theirs(samples, 128)).max() < 1e-4


@pytest.mark.parametrize("num_bins", [80, 128])
def test_filters(num_bins: int) -> None:
    extractor = WhisperFeatureExtractor(feature_size=num_bins)
    np.testing.assert_allclose(mel_filters(num_bins), extractor.mel_filters, atol=1e-12)


def test_the_floor_is_the_whole_clips() -> None:
    """A part's own spectrogram is another one, so clips are cut afterwards."""
    clip = SIGNALS["loud, then quiet"].astype(np.float32)
    whole, part = log_mel(clip, 128), log_mel(clip[2 * RATE :], 128)
    assert (whole[201:] - part[1:]).abs().max() > 0.5
