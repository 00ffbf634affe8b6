"""Clips and encoded files of them, made by the libraries themselves."""

import io
from fractions import Fraction
from typing import Any

import numpy as np
import soundfile

#: (format, codec) as soundfile names them.
SOUNDFILE_FILES = [
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "ULAW"),
    ("WAV", "ALAW"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AIFF", "FLOAT"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_24"),
    ("CAF", "ALAC_16"),
    ("W64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
#: (container, codec) as FFmpeg names them.
AV_FILES = [
    ("ipod", "aac"),
    ("ipod", "alac"),
    ("adts", "aac"),
    ("webm", "libopus"),
    ("matroska", "flac"),
    ("matroska", "pcm_s16le"),
]
#: Codecs that give back other numbers than they were given.
LOSSY = ("ULAW", "ALAW", "VORBIS", "OPUS", "MPEG_LAYER_III", "aac", "libopus")


def melody(seconds: float = 1.0, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """(samples,) float32: three tones that swell, and a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(150, 2000, 3))
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * t)
    return (0.15 * tones * swell + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def encode(samples: np.ndarray, rate: int, format: str, codec: str) -> bytes:
    """A file of ``samples`` (frames,) or (frames, channels), by soundfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=codec)
    return file.getvalue()


def encode_av(samples: np.ndarray, rate: int, container: str, codec: str, **options: Any) -> bytes:
    """A file of ``samples`` (frames,) or (frames, channels ≤ 2), by PyAV."""
    import av

    columns = samples[:, None] if samples.ndim == 1 else samples
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.layout = "mono" if columns.shape[1] == 1 else "stereo"
        wanted = stream.codec_context.format
        resampler = av.AudioResampler(wanted.name if wanted else "fltp", stream.layout, rate)
        planes = np.ascontiguousarray(columns.T, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(planes, "fltp", stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.getvalue()
