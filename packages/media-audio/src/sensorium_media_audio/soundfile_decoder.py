"""soundfile's part: PCM containers, FLAC, Ogg and MP3, in blocks.

The library detects the format by itself. Its result must be the format that ``formats`` found, with
a codec on the list, so that a file can't reach another of the library's many readers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager

import soundfile

from sensorium_media_audio.formats import Format
from sensorium_media_audio.mixdown import BLOCK_FRAMES, FloatArray
from sensorium_media_audio.stream import SoundStream, damaged

# Our name → the library's.
_FORMATS = {
    "WAV": ("WAV", "WAVEX", "RF64"),
    "AIFF": ("AIFF",),
    "AU": ("AU",),
    "CAF": ("CAF",),
    "W64": ("W64",),
    "FLAC": ("FLAC",),
    "OGG": ("OGG",),
    "MP3": ("MP3",),
}
_PCM = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
_CODECS = {
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
    "CAF": (*_PCM, "ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32"),
}
#: What the library says where a header leaves the length open.
_UNKNOWN_FRAMES = 2**62
_OPUS_RATE = 48_000
#: Seconds that a lossy codec's file may hold less than it announces.
LOSSY_SLACK_S = 0.1


@contextmanager
def open_soundfile(data: bytes, format: Format, announced: int | None) -> Iterator[SoundStream]:
    """Opens a file.

    Args:
        announced: what ``check_complete`` returned.

    Raises:
        MediaError: it is damaged, or has another codec than those on the list.
    """
    try:
        opened = soundfile.SoundFile(io.BytesIO(data[format.start :] if format.start else data))
    except Exception:  # LibsndfileError, whose code is 0 when threads fail together, and others
        raise damaged(format.name) from None
    with closing(opened):
        codecs = _CODECS.get(format.name, _PCM)
        if opened.format not in _FORMATS[format.name] or opened.subtype not in codecs:
            raise damaged(format.name)
        lossy = format.name in ("OGG", "MP3")
        if announced is None and opened.frames < _UNKNOWN_FRAMES:
            announced = opened.frames
        elif announced is not None and opened.subtype == "OPUS":
            announced = announced * opened.samplerate // _OPUS_RATE
        slack = int(LOSSY_SLACK_S * opened.samplerate) if lossy else 0
        yield SoundStream(
            opened.samplerate, opened.channels, announced, slack, _blocks(opened, format.name)
        )


def _blocks(opened: soundfile.SoundFile, name: str) -> Iterator[FloatArray]:
    while True:
        try:
            block = opened.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        except Exception:
            raise damaged(name) from None
        if not len(block):
            return
        yield block
