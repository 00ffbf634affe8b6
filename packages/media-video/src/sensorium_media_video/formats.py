"""Which format an encoded clip has, told by its first bytes: the list of what is decoded at all.

Names, types and claims of a sender don't count. What isn't on the list is handed to no decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from sensorium.errors import MediaError

#: Formats that hold one picture, or several that are shown one after another.
PICTURES = ("GIF", "WebP", "PNG", "JPEG")
#: FFmpeg's name of the demuxer of each container.
DEMUXERS = {"MP4": "mp4", "MKV": "matroska", "AVI": "avi"}
FORMATS = ("MP4", "MOV", "WebM", "MKV", "AVI", "GIF", "WebP", "APNG")
#: FFmpeg's names of the codecs that are decoded.
CODECS = frozenset({"h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mjpeg"})
CODEC_WORDS = "H.264, H.265, AV1, VP8, VP9, MPEG-4 and Motion JPEG"

#: Boxes with which a QuickTime file may begin that is older than "ftyp".
_OLD_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


@dataclass(frozen=True, slots=True)
class Format:
    """A file's format: a key of ``DEMUXERS`` or one of ``PICTURES``, and its name in messages."""

    name: str
    spoken: str

    @property
    def is_container(self) -> bool:
        """Whether it holds streams of packets."""
        return self.name in DEMUXERS


def read_format(data: bytes) -> Format:
    """Tells the format.

    Raises:
        MediaError: none of the formats.
    """
    kind = data[4:8]
    if kind == b"ftyp" or kind in _OLD_QUICKTIME:
        spoken = "MOV" if data[8:12] == b"qt  " or kind != b"ftyp" else "MP4"
        return Format("MP4", spoken)
    if data.startswith(b"\x1a\x45\xdf\xa3"):
        return Format("MKV", "WebM" if b"webm" in data[:64] else "MKV")
    if data.startswith(b"RIFF") and data[8:12] == b"AVI ":
        return Format("AVI", "AVI")
    signatures = (
        ("GIF", data.startswith((b"GIF87a", b"GIF89a"))),
        ("WebP", data.startswith(b"RIFF") and data[8:12] == b"WEBP"),
        ("PNG", data.startswith(b"\x89PNG\r\n\x1a\n")),
        ("JPEG", data.startswith(b"\xff\xd8\xff")),
    )
    for name, found in signatures:
        if found:
            return Format(name, name)
    raise MediaError(f"the data are no video in an allowed format ({', '.join(FORMATS)}).")


def damaged(format: Format) -> MediaError:
    """The error of a file that can't be read; decoders' own texts may hold addresses."""
    return MediaError(f"the {format.spoken} file is damaged or cut off.")
