"""Encoded clips: bytes → an opened ``Clip`` and its facts.

bytes → format by signature ─ container → the reader that is installed, or chosen
                            ─ several pictures in one file → Pillow
                            ─ one picture → a clip of one frame
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from sensorium_media_video import av_reader, cv_reader
from sensorium_media_video.animation import open_animation
from sensorium_media_video.clip import Clip
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.formats import Format, read_format
from sensorium_media_video.frames import ListClip
from sensorium_media_video.options import VideoOptions

#: A reader of containers: the clip, its facts, and what decoding a frame takes in memory.
Opener: TypeAlias = Callable[[bytes, Format, VideoOptions], tuple[Clip, ClipFacts, int]]


def open_encoded(data: bytes, options: VideoOptions) -> tuple[Clip, ClipFacts, int]:
    """The clip, its facts, and what decoding a frame takes in memory.

    Raises:
        MediaError: no clip in an allowed format, or one that is damaged.
        LimitError: more than is allowed.
        UnsupportedError: no reader for it is installed.
    """
    format = read_format(data)
    if format.is_container:
        return _opener(options)(data, format, options)
    if format.name != "JPEG":
        clip, facts, decoded_bytes = open_animation(data, format, options)
        if clip.num_frames > 1:
            return clip, facts, decoded_bytes
    picture = ListClip([data], options)
    facts = ClipFacts(1, picture.height, picture.width, sampled=True)
    return picture, facts, picture.decoded_bytes


def _opener(options: VideoOptions) -> Opener:
    if options.reader == "opencv":
        return cv_reader.open_cv
    if options.reader is None and not av_reader.is_installed() and cv_reader.is_installed():
        return cv_reader.open_cv
    return av_reader.open_av
