"""The forms in which video is given: ``multi_modal_data["video"]`` and chat parts.

Nothing here reads or decodes a frame. A list is one clip if its first entry is a frame (a Pillow
image, or an array of three dimensions), else several clips. A tuple (frames, metadata) is one clip.
A floating-point tensor of three dimensions is embeddings (items, tokens, hidden), one of two in a
list is embeddings (tokens, hidden).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from sensorium.errors import LimitError, MediaError, RequestError, UnsupportedError
from sensorium.media.fetch import is_url
from sensorium.types import BytesSource, GivenEmbeds, Source, UrlSource, ValueSource
from sensorium_media_image.arrays import is_array, is_floating
from sensorium_media_image.embeds import EmbedsForm, split_mapping, split_rows
from sensorium_media_video.frames import GivenClip, check_count, clip_axes, is_frame
from sensorium_media_video.metadata import is_metadata
from sensorium_media_video.options import VideoOptions

#: One clip as it was given: its sources, several where it comes as encoded frames; () where the
#: data were left out.
Entry: TypeAlias = tuple[Source, ...] | GivenEmbeds

EMBEDS = "video_embeds"
#: Grids are (times, rows, columns) in patches, sizes (width, height) in pixels.
VIDEO_FORM = EmbedsForm(
    "video", "videos", EMBEDS, {"video_grid_thw": 3, "video_image_sizes": 2}, "video_grid_thw"
)
_FORMS = (
    "a list of PIL images or arrays (the frames), an array or tensor (4-D, or 5-D for several), "
    "(frames, metadata), bytes, a pathlib.Path, a URL, embeddings (a floating-point tensor (items, "
    "tokens, hidden), or a mapping with video_embeds), or a list of these and None"
)
#: How a URL begins that holds single frames, in base64 with commas between them.
_FRAMES_URL = "data:video/jpeg;base64,"


def split_value(value: Any, options: VideoOptions) -> list[Entry]:
    """One entry a clip.

    Raises:
        MediaError: a value that is no form of video.
        LimitError: a URL of more frames than ``max_listed_frames``.
    """
    if _is_pair(value) or _is_frames(value):
        return [_labelled_entry(0, value, options)]
    if isinstance(value, (list, tuple)):
        return [
            _labelled_entry(index, entry, options, listed=True) for index, entry in enumerate(value)
        ]
    if is_array(value) and value.ndim == 5:
        clip_axes(tuple(value.shape[1:]))
        return [(ValueSource(GivenClip(clip)),) for clip in value]
    if is_array(value) and value.ndim == 3 and is_floating(value):
        return list(split_rows(value))
    if isinstance(value, Mapping):
        _check_mapping(value)
        return list(split_mapping(value, VIDEO_FORM))
    return [_labelled_entry(0, value, options)]


def part_entry(part_type: str, value: Any, options: VideoOptions) -> Entry:
    """The clip of one chat part; () where its value was left out.

    Raises:
        MediaError: a value of the wrong shape.
        LimitError: a URL of more frames than ``max_listed_frames``.
    """
    if part_type == "video_embeds":
        return _part_embeds(value)
    if part_type == "video_url":
        return _video_url(value, options)
    assert part_type == "video", "the kind answers to no other part type"
    return _entry(value, options, listed=False)


def _url_sources(url: str, options: VideoOptions) -> tuple[Source, ...]:
    """A clip's URL as its sources: one, or one for each frame of a ``video/jpeg`` URL."""
    if url[: len(_FRAMES_URL)].lower() != _FRAMES_URL:
        return (UrlSource(url),)
    check_count(url.count(",", len(_FRAMES_URL)) + 1, options)
    frames = url[len(_FRAMES_URL) :].split(",")
    return tuple(UrlSource(f"data:image/jpeg;base64,{frame}") for frame in frames)


def _part_embeds(value: Any) -> GivenEmbeds:
    if isinstance(value, Mapping):
        _check_mapping(value)
        entries = split_mapping(value, VIDEO_FORM)
        if len(entries) != 1:
            raise MediaError(f"the part video_embeds holds {len(entries)} clips; it must hold one.")
        return entries[0]
    if value is not None and not isinstance(value, str) and not is_array(value):
        raise MediaError(
            f"the part video_embeds holds a {type(value).__name__}; it must hold a tensor, one in "
            "base64, or a mapping with video_embeds."
        )
    return GivenEmbeds(value)


def _video_url(value: Any, options: VideoOptions) -> Entry:
    url = value
    if isinstance(value, Mapping):
        unknown = [str(key) for key in value if key != "url"]
        if unknown:
            raise MediaError(f"video_url has {unknown[0]!r}; allowed is url.")
        url = value.get("url")
    if url is None:
        return ()
    if not isinstance(url, str):
        raise MediaError(
            f"video_url is a {type(url).__name__}; it must be a URL or a mapping with a url."
        )
    return _url_sources(url, options)


def _labelled_entry(
    index: int, value: Any, options: VideoOptions, *, listed: bool = False
) -> Entry:
    try:
        return _entry(value, options, listed=listed)
    except (UnsupportedError, LimitError) as error:
        raise type(error)(f"video {index}: {error}") from None
    except RequestError as error:
        raise MediaError(f"video {index}: {error}") from None


def _entry(value: Any, options: VideoOptions, *, listed: bool) -> Entry:
    if value is None:
        return ()
    if _is_pair(value):
        frames, metadata = value
        _check_frames(frames)
        return (ValueSource(GivenClip(frames, metadata)),)
    if isinstance(value, Mapping):
        return _part_embeds(value)
    if is_array(value):
        is_rows = isinstance(value, torch.Tensor) and value.ndim == 2 and is_floating(value)
        if listed and is_rows:
            return GivenEmbeds(value)
        clip_axes(tuple(value.shape))
        return (ValueSource(GivenClip(value)),)
    if isinstance(value, (list, tuple)):
        _check_frames(value)
        return (ValueSource(GivenClip(value)),)
    if isinstance(value, Path):
        return (ValueSource(value),)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return (BytesSource(bytes(value)),)
    if isinstance(value, str):
        if not is_url(value):
            raise MediaError("a text must be a URL; pass a file as pathlib.Path(...).")
        return _url_sources(value, options)
    raise MediaError(f"it is a {type(value).__name__}; allowed are {_FORMS}.")


def _is_pair(value: Any) -> bool:
    """A tuple of frames and metadata; a list of two is two clips, or two frames."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and (is_array(value[0]) or isinstance(value[0], (list, tuple)))
        and is_metadata(value[1])
    )


def _is_frames(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    first = value[0]
    if isinstance(first, np.ndarray) and first.ndim == 3:
        return True
    return is_frame(first)


def _check_frames(frames: Any) -> None:
    if is_array(frames):
        clip_axes(tuple(frames.shape))
        return
    for index, frame in enumerate(frames):
        if not is_frame(frame):
            shape = f" of shape {tuple(frame.shape)}" if is_array(frame) else ""
            raise MediaError(
                f"frame {index} is a {type(frame).__name__}{shape}; a frame is a PIL image or an "
                "array (height, width, channels)."
            )


def _check_mapping(value: Mapping[Any, Any]) -> None:
    if EMBEDS not in value:
        keys = ", ".join(repr(key) for key in value) or "no keys"
        raise MediaError(f"video is a mapping with {keys}; allowed are {_FORMS}.")
