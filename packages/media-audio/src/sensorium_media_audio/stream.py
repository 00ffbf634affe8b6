"""``SoundStream``: an opened file, whichever library decodes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sensorium.errors import MediaError
from sensorium_media_audio.mixdown import FloatArray


@dataclass(frozen=True, slots=True)
class SoundStream:
    """What its header says, and its samples.

    Attributes:
        rate: samples a second.
        channels: as the header says; a block may differ.
        announced: samples of one channel that the file announces; None: it doesn't say.
        slack: how many of them may be missing: codecs that code whole frames announce more than
            they hold.
        blocks: (frames, channels) each, decoded as they are pulled. To be closed.
    """

    rate: int
    channels: int
    announced: int | None
    slack: int
    blocks: Iterator[FloatArray]


def damaged(name: str) -> MediaError:
    """The error of a file that can't be decoded; decoders' own messages may hold addresses."""
    return MediaError(f"the {name} file is damaged or cut off.")
