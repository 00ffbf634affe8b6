"""PyAV's part: MP3, MP4, ADTS and Matroska, FLAC of unknown length, and Ogg that soundfile leaves
off in the middle of.

PyAV is an optional dependency (``sensorium-media-audio[av]``). This module tells FFmpeg which
demuxer to use, so that a file can't choose one, and allows only the codecs on a list.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from sensorium.errors import UnsupportedError
from sensorium_media_audio.arrays import Array
from sensorium_media_audio.formats import Format
from sensorium_media_audio.mixdown import BLOCK_FRAMES, FloatArray
from sensorium_media_audio.soundfile_decoder import LOSSY_SLACK_S
from sensorium_media_audio.stream import SoundStream, damaged

if TYPE_CHECKING:
    from types import ModuleType

_DEMUXERS = {
    "M4A": "mp4",
    "AAC": "aac",
    "WebM": "matroska",
    "OGG": "ogg",
    "MP3": "mp3",
    "FLAC": "flac",
}
_CODECS = frozenset({"aac", "alac", "opus", "vorbis", "mp3", "flac"})
_PCM_CODECS = frozenset({"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8"})


def is_installed() -> bool:
    """Whether PyAV is there."""
    try:
        _library("")
    except UnsupportedError:
        return False
    return True


@contextmanager
def open_av(data: bytes, format: Format, announced: int | None) -> Iterator[SoundStream]:
    """Opens a file's one audio stream.

    Args:
        announced: what ``check_complete`` returned.

    Raises:
        UnsupportedError: PyAV isn't installed.
        MediaError: the file is damaged, has no audio, or another codec than those on the list.
    """
    av = _library(format.name)
    try:
        container = av.open(
            io.BytesIO(data[format.start :]),
            format=_DEMUXERS[format.name],
            metadata_errors="ignore",
        )
    except Exception:  # FFmpeg's errors are of many classes
        raise damaged(format.name) from None
    with closing(container):
        try:
            stream = container.streams.audio[0]
            context = stream.codec_context
            codec = context.codec.canonical_name
            rate, channels = context.sample_rate, context.channels
            context.thread_count = 1
            if announced is None:
                announced = _announced(container, stream, rate)
        except Exception:
            raise damaged(format.name) from None
        if codec not in _CODECS | _PCM_CODECS:
            raise damaged(format.name)
        blocks = _blocks(container, stream, rate, format.name)
        yield SoundStream(rate, channels, announced, int(LOSSY_SLACK_S * rate), blocks)


def _library(name: str) -> ModuleType:
    try:
        import av
    except ImportError:
        raise UnsupportedError(
            f"{name} files are decoded by PyAV, which isn't installed: "
            "pip install 'sensorium-media-audio[av]'."
        ) from None
    return av


def _announced(container: Any, stream: Any, rate: int) -> int | None:
    """Samples by the durations of stream and container, whichever is known."""
    if stream.duration:
        return int(stream.duration * stream.time_base * rate)
    if container.duration and container.format.name != "aac":  # an estimate by its bit rate
        return int(container.duration * rate // 1_000_000)
    return None


def _blocks(container: Any, stream: Any, rate: int, name: str) -> Iterator[FloatArray]:
    """Blocks of many frames: what one frame costs in Python is more than its decoding."""
    av = _library(name)
    frames = _frames(container, stream, skips_damage=name == "MP3")
    fifo, layout = None, None
    while True:
        try:
            frame = next(frames, None)
            found = None if frame is None else _layout(frame, rate)
            block = None
            if fifo is not None and (found != layout or fifo.samples >= BLOCK_FRAMES):
                block = _samples(fifo.read())
                fifo = fifo if found == layout else None
            if frame is not None:
                if fifo is None:
                    fifo, layout = av.AudioFifo(), found
                frame.pts = None  # the queue refuses gaps, which don't matter here
                fifo.write(frame)
        except Exception:
            raise damaged(name) from None
        if block is not None:
            yield block
        if frame is None:
            return


def _frames(container: Any, stream: Any, *, skips_damage: bool) -> Iterator[Any]:
    """Decoded frames.

    Args:
        skips_damage: whether a packet that can't be decoded is left out, as every player of MP3
            does: each frame can be found and decoded without those before it. What is missing then
            counts as missing.
    """
    from av.error import InvalidDataError

    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except InvalidDataError:
            if not skips_damage:
                raise
            continue
        yield from decoded


def _layout(frame: Any, rate: int) -> tuple[str, str]:
    """What frames of one queue have in common: how samples are written, and which channels."""
    if frame.sample_rate != rate:
        raise ValueError("the sampling rate changes in the middle")
    return frame.format.name, frame.layout.name


def _samples(frame: Any) -> FloatArray:
    """Decoded samples as (frames, channels) float32."""
    array: Array = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(frame.samples, -1)
    samples: FloatArray = array.astype(np.float32, copy=False)
    if array.dtype == np.uint8:
        samples = (samples - np.float32(128)) * np.float32(2.0**-7)
    elif array.dtype.kind == "i":
        samples = samples * np.float32(2.0 ** (1 - 8 * array.dtype.itemsize))
    return samples
