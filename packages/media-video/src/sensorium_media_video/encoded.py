"""Encoded clips: bytes → an opened ``Clip`` and its facts."""

from __future__ import annotations

from sensorium.errors import MediaError
from sensorium_media_image.headers import FORMATS as PICTURE_FORMATS
from sensorium_media_image.headers import read_header
from sensorium_media_video.clip import Clip
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.frames import ListClip
from sensorium_media_video.options import VideoOptions


def open_encoded(data: bytes, options: VideoOptions) -> tuple[Clip, ClipFacts, int]:
    """The clip, its facts, and what decoding a frame takes in memory.

    Raises:
        MediaError: no clip in an allowed format, or one that is damaged.
        LimitError: more than is allowed.
    """
    try:
        read_header(data)
    except MediaError:
        raise MediaError(
            f"the data are no video in an allowed format ({', '.join(PICTURE_FORMATS)})."
        ) from None
    clip = ListClip([data], options)
    facts = ClipFacts(1, clip.height, clip.width, sampled=True)
    return clip, facts, clip.decoded_bytes
