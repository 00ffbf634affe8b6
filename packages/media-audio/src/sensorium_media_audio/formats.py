"""Tells an encoded clip's format by its first bytes, and lists the formats that are decoded.

What the sender claims (a name, a type) doesn't count. No decoder sees a file of another format.
"""

from __future__ import annotations

from dataclasses import dataclass

from sensorium.errors import MediaError
from sensorium_media_audio import mpeg

#: Formats that soundfile can decode; the others need PyAV.
SOUNDFILE_FORMATS = ("WAV", "AIFF", "AU", "CAF", "W64", "FLAC", "OGG", "MP3")
PYAV_FORMATS = ("M4A", "AAC", "WebM")
FORMATS = SOUNDFILE_FORMATS + PYAV_FORMATS

W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")


@dataclass(frozen=True, slots=True)
class Format:
    """A file's format, one of ``FORMATS``, and where it begins: behind an ID3 tag, if any."""

    name: str
    start: int = 0


def read_format(data: bytes) -> Format:
    """Tells the format.

    Raises:
        MediaError: none of the formats.
    """
    start = mpeg.id3_end(data)
    if data.startswith(b"fLaC", start):
        return Format("FLAC", start)
    if mpeg.is_mp3(data, start):
        return Format("MP3", start)
    if mpeg.is_adts(data, start):
        return Format("AAC", start)
    name = None if start else _by_signature(data)
    if name is None:
        raise MediaError(f"the data are no audio in an allowed format ({', '.join(FORMATS)}).")
    return Format(name)


def _by_signature(data: bytes) -> str | None:
    head, form = data[:4], data[8:12]
    if head in (b"RIFF", b"RIFX", b"RF64") and form == b"WAVE":
        return "WAV"
    if head == b"FORM" and form in (b"AIFF", b"AIFC"):
        return "AIFF"
    if data[4:8] == b"ftyp":
        return "M4A"
    if data.startswith(W64_RIFF):
        return "W64"
    signatures = {b".snd": "AU", b"caff": "CAF", b"OggS": "OGG", b"\x1a\x45\xdf\xa3": "WebM"}
    return signatures.get(head)
