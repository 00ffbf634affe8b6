"""From sound to the encoder's input: the engine's threads against transformers' extractor.

    python benchmarks/sounds.py [--quick] [--repeats 7]

30 s of 16 kHz samples become Whisper's log-mel of 128 bins, as an Ultravox takes it, by the engine
and by ``WhisperFeatureExtractor`` as the published processor calls it. Then the same from WAV, FLAC
and MP3 bytes, beside the bound that decoding sets (the ratio if the engine did nothing but decode
with soundfile); and a minute of 44.1 kHz stereo MP3, resampled by soxr in both. The reference
decodes with soundfile, the engine MP3 with PyAV. torch may use one thread; peers take turns in one
process, and times are the process's own, so that a busy machine counts little.

Printed: milliseconds, medians; ratios, medians of each repeat's; and how many times as much two
threads do.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from transformers import WhisperFeatureExtractor

from sensorium.types import BytesSource, Source, ValueSource
from sensorium_media_audio.arrays import Clip
from sensorium_media_audio.kind import AudioKind
from sensorium_media_audio.mel import log_mel

RATE, BINS = 16_000, 128
Work = Callable[[], Any]


def draw(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """Tones that come and go over noise, (samples,) or (samples, channels)."""
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * rate)) / rate
    columns = []
    for _ in range(channels):
        tones = sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(100, 4000, 6))
        swell = 0.5 + 0.5 * np.sin(2 * np.pi * 2.5 * t)
        columns.append(0.08 * tones * swell + 0.02 * rng.standard_normal(len(t)))
    return np.squeeze(np.stack(columns, 1)).astype(np.float32)


def encode(samples: np.ndarray, rate: int, format: str) -> bytes:
    """The file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format)
    return file.getvalue()


def engine(kind: AudioKind, source: Source) -> torch.Tensor:
    """What a media thread does with a clip."""
    kind.digest([source])
    kind.probe([source])
    return log_mel(kind.load([source]).value, BINS)


def decoded(data: bytes) -> np.ndarray:
    """Mono at 16 kHz, by the libraries alone."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    return np.asarray(mono if rate == RATE else soxr.resample(mono, rate, RATE))


def reference(extractor: Any, samples: np.ndarray) -> np.ndarray:
    """As Ultravox's published processor calls it."""
    features = extractor(
        samples,
        sampling_rate=RATE,
        padding="longest",
        pad_to_multiple_of=160,
        truncation=False,
        return_tensors="np",
    )
    return np.asarray(features.input_features[0].T)


def seconds(work: Work) -> float:
    """One run's, of this thread."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def elapsed(work: Work) -> float:
    """One run's, by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scaling(work: Work, repeats: int) -> float:
    """Rate of two threads over that of one."""
    ratios = []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        for _ in range(repeats + 1):
            alone = elapsed(lambda: [f.result() for f in [one.submit(work) for _ in range(8)]])
            both = elapsed(lambda: [f.result() for f in [two.submit(work) for _ in range(16)]])
            ratios.append(2 * alone / both)
    return statistics.median(ratios[1:])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    repeats = 2 if options.quick else options.repeats
    torch.set_num_threads(1)
    kind, extractor = AudioKind({}), WhisperFeatureExtractor(feature_size=BINS)
    clip = draw(30, RATE)
    cases: dict[str, tuple[Source, Work, Work | None]] = {
        "30 s of samples": (
            ValueSource(Clip(clip, RATE)),
            partial(reference, extractor, clip),
            None,
        )
    }
    files = {f"30 s of {name}": encode(clip, RATE, name) for name in ("WAV", "FLAC", "MP3")}
    files["60 s of MP3, 44.1 kHz stereo"] = encode(draw(60, 44_100, 2), 44_100, "MP3")
    for name, data in files.items():
        both = partial(lambda data: reference(extractor, decoded(data)), data)
        cases[name] = (BytesSource(data), both, partial(decoded, data))
    print("| case | engine, ms | reference, ms | ratio | bound by decoding | two threads |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (source, theirs, decode) in cases.items():
        ours = partial(engine, kind, source)
        difference = np.abs(ours().numpy() - theirs()).max()
        assert difference < 1e-3, f"{name}: the values differ by {difference}"
        times = [
            (seconds(ours), seconds(theirs), seconds(decode) if decode else 0.0)
            for _ in range(repeats + 1)
        ][1:]
        mine, other, decoding = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b, _ in times)
        bound = f"{other / decoding:.2f}" if decode else "–"
        print(
            f"| {name} | {1e3 * mine:.1f} | {1e3 * other:.1f} | {ratio:.2f} | {bound} | "
            f"{scaling(ours, repeats):.2f} |"
        )


if __name__ == "__main__":
    main()
