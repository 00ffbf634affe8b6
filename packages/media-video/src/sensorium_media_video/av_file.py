"""``AvFile``: a container as PyAV opens it, which brings FFmpeg.

FFmpeg is told which demuxer to take, which codecs it may open and how many pixels a frame may have,
so that a file can choose none of these. Nobody seeks: packets are read from the first on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sensorium.errors import UnsupportedError
from sensorium_media_video.formats import CODEC_WORDS, CODECS, DEMUXERS, Format, damaged
from sensorium_media_video.options import VideoOptions

if TYPE_CHECKING:
    from types import ModuleType

#: FFmpeg's own names of decoders, where they differ from the codec's.
_DECODERS = (*sorted(CODECS), "libdav1d", "libvpx", "libvpx-vp9", "libaom-av1")
_READ_BYTES = 2**20


class AvFile:
    """A clip's bytes and how they may be opened."""

    def __init__(self, data: bytes, format: Format, options: VideoOptions) -> None:
        self.data = data
        self.format = format
        self.options = options
        # Decoders count whole blocks, and some of them a border.
        self.max_pixels = options.max_frame_pixels * 5 // 4 + 2**16
        self._av = library(format.spoken)

    def open(self) -> Any:
        """A container at its beginning; to be closed."""
        limits = {"codec_whitelist": ",".join(_DECODERS), "max_pixels": str(self.max_pixels)}
        try:
            return self._av.open(
                io.BytesIO(self.data),
                format=DEMUXERS[self.format.name],
                metadata_errors="ignore",
                buffer_size=_READ_BYTES,
                options=limits,
            )
        except Exception:  # FFmpeg's errors are of many classes
            raise damaged(self.format) from None

    def stream(self, container: Any) -> Any:
        """The container's first stream of frames that is no cover picture.

        Raises:
            UnsupportedError: of a codec that isn't decoded.
            MediaError: there is none.
        """
        for stream in container.streams.video:
            if "attached_pic" in str(stream.disposition):
                continue
            context = stream.codec_context
            name = None if context is None else context.codec.canonical_name
            if name not in CODECS or context.width < 1 or context.format is None:
                raise UnsupportedError(
                    f"the {self.format.spoken} file's video is in a codec that isn't decoded, or "
                    f"damaged; decoded are {CODEC_WORDS}."
                )
            return stream
        raise damaged(self.format)


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets with data in them; a file that is cut off ends there."""
    with suppress(Exception):
        for packet in container.demux(stream):
            if packet.size:
                yield packet


def library(name: str) -> ModuleType:
    """PyAV.

    Raises:
        UnsupportedError: it isn't installed, so that files of this name aren't read.
    """
    try:
        import av
    except ImportError:
        raise UnsupportedError(
            f"{name} files are decoded by PyAV, which isn't installed: "
            "pip install 'sensorium-media-video[av]'."
        ) from None
    return av
