"""Clips given as frames: arrays, tensors, and lists of Pillow images or arrays.

    (frames, H, W, 3)   an array or tensor, where the last dimension is 3
    (frames, 3, H, W)   else, where the second one is
    a list              Pillow images, or arrays (H, W, channels) or (channels, H, W)

Numbers: integers are 0 … 255; floats are 0 … 255, rounded, and 0 … 1 if none in the whole clip is
above 1: it would be black otherwise. All frames of a clip have one size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from sensorium.errors import LimitError, MediaError
from sensorium.media.digest import Digest
from sensorium.types import BytesSource, ValueSource
from sensorium_media_image.arrays import Array, is_array, picture_size, to_channels_last, to_numpy
from sensorium_media_image.kind import DECODE_BYTES_PER_PIXEL, ImageKind
from sensorium_media_video.clip import Clip, Frame
from sensorium_media_video.metadata import ClipMetadata, read_metadata
from sensorium_media_video.options import VideoOptions


@dataclass(frozen=True, slots=True)
class GivenClip:
    """A clip as the caller gave it, nothing checked yet.

    Attributes:
        frames: an array or tensor of four dimensions, or a list of frames.
        metadata: what came beside them; None: nothing.
    """

    frames: Any
    metadata: Any = None


class FrameClip(Clip, ABC):
    """A clip of frames that are in memory, decoded or not.

    Attributes:
        height, width: of its frames.
        decoded_bytes: what making one of them takes at its peak.
    """

    height: int
    width: int
    decoded_bytes: int

    @abstractmethod
    def add_to(self, digest: Digest) -> None:
        """Adds everything that makes the frames what they are."""


def open_frames(given: GivenClip, options: VideoOptions) -> tuple[FrameClip, ClipMetadata | None]:
    """Checks shapes and counts, and reads the metadata; converts nothing yet.

    Raises:
        MediaError: frames, or metadata, that can't be.
        LimitError: more frames, or larger ones, than are allowed.
    """
    clip: FrameClip
    if is_array(given.frames):
        check_count(len(given.frames), options)
        clip = ArrayClip(given.frames, options)
    else:
        check_count(len(given.frames), options)
        clip = ListClip(given.frames, options)
    if given.metadata is None:
        return clip, None
    return clip, read_metadata(given.metadata, clip.num_frames)


def check_count(num_frames: int, options: VideoOptions) -> None:
    """Holds the number of single frames against ``max_listed_frames``.

    Raises:
        MediaError: there are none.
        LimitError: there are too many.
    """
    if num_frames < 1:
        raise MediaError("the clip has no frames; it must have one at least.")
    if num_frames > options.max_listed_frames:
        raise LimitError(
            f"it comes as {num_frames} single frames; max_listed_frames allows "
            f"{options.max_listed_frames}."
        )


def check_frame_size(height: int, width: int, options: VideoOptions) -> None:
    """Holds a frame's size against ``max_frame_pixels``.

    Raises:
        MediaError: it has no pixel.
        LimitError: it has too many.
    """
    if height < 1 or width < 1:
        raise MediaError(f"its frames are {width}×{height} pixels; they must be at least 1×1.")
    if height * width > options.max_frame_pixels:
        raise LimitError(
            f"its frames are {width}×{height}, {height * width} pixels; max_frame_pixels allows "
            f"{options.max_frame_pixels}."
        )


def check_duration(duration_s: float, options: VideoOptions) -> None:
    """Holds seconds against ``max_duration_s``.

    Raises:
        LimitError: it lasts longer.
    """
    if duration_s > options.max_duration_s:
        raise LimitError(
            f"it lasts {duration_s:.1f} s; max_duration_s allows {options.max_duration_s:g} s."
        )


def clip_axes(shape: Sequence[int]) -> tuple[int, int, bool]:
    """(height, width, channels come last) of a clip's shape.

    Raises:
        MediaError: no clip has this shape.
    """
    if len(shape) == 4 and shape[3] == 3:
        return shape[1], shape[2], True
    if len(shape) == 4 and shape[1] == 3:
        return shape[2], shape[3], False
    raise MediaError(
        f"an array of shape {tuple(shape)} is no clip; allowed are (frames, height, width, 3) and "
        "(frames, 3, height, width)."
    )


class ArrayClip(FrameClip):
    """An array or tensor of four dimensions."""

    def __init__(self, frames: Array | torch.Tensor, options: VideoOptions) -> None:
        self.height, self.width, self._channels_last = clip_axes(tuple(frames.shape))
        check_frame_size(self.height, self.width, options)
        self._array = to_numpy(frames)
        self._scale = level_scale([self._array])
        self.decoded_bytes = DECODE_BYTES_PER_PIXEL * self.height * self.width
        super().__init__(len(self._array))

    def read(self, indices: tuple[int, ...]) -> Iterator[Frame]:
        """Views where that is possible."""
        for index in indices:
            frame = self._array[index]
            yield to_frame(frame if self._channels_last else np.moveaxis(frame, 0, 2), self._scale)

    def add_to(self, digest: Digest) -> None:
        """Type, shape and numbers."""
        digest.add("array").add(self._array)


class ListClip(FrameClip):
    """Pillow images and arrays of one size.

    Pictures are read as the image kind reads them.
    """

    def __init__(self, frames: Sequence[Any], options: VideoOptions) -> None:
        self._pictures = ImageKind({"max_image_pixels": options.max_frame_pixels})
        self._frames = [to_numpy(frame) if is_array(frame) else frame for frame in frames]
        self.height, self.width = self._size(0)
        check_frame_size(self.height, self.width, options)
        for index in range(len(frames)):
            height, width = self._size(index)
            if (height, width) != (self.height, self.width):
                raise MediaError(
                    f"frame {index} is {width}×{height} and the first is "
                    f"{self.width}×{self.height}; all frames of a clip have one size."
                )
        self._scale = level_scale([frame for frame in self._frames if is_array(frame)])
        self.decoded_bytes = DECODE_BYTES_PER_PIXEL * self.height * self.width
        super().__init__(len(frames))

    def read(self, indices: tuple[int, ...]) -> Iterator[Frame]:
        """Decodes a picture when its turn comes."""
        for index in indices:
            frame = self._frames[index]
            if isinstance(frame, np.ndarray):
                yield _colour(to_frame(to_channels_last(frame), self._scale))
            else:
                yield self._picture(index)

    def add_to(self, digest: Digest) -> None:
        """Each frame's kind and content."""
        digest.add("list").add(len(self._frames))
        for frame in self._frames:
            if isinstance(frame, np.ndarray):
                digest.add(frame)
            else:
                digest.add(self._pictures.digest([_source(frame)]))

    def _picture(self, index: int) -> Frame:
        try:
            loaded = self._pictures.load([_source(self._frames[index])])
        except MediaError as error:
            raise MediaError(f"frame {index}: {error}") from None
        frame: Frame = loaded.value
        if frame.shape[:2] != (self.height, self.width):
            raise MediaError(
                f"frame {index}: decoding gives another size than its header has said."
            )
        return frame

    def _size(self, index: int) -> tuple[int, int]:
        frame = self._frames[index]
        if isinstance(frame, np.ndarray):
            height, width, _ = picture_size(frame.shape)
            return height, width
        try:
            height, width = self._pictures.probe([_source(frame)]).shape.size
        except (MediaError, LimitError) as error:
            raise type(error)(f"frame {index}: {error}") from None
        return height, width


def is_frame(value: object) -> bool:
    """Whether ``value`` can be one frame of a list: a Pillow image or an array of a picture."""
    if isinstance(value, Image.Image):
        return True
    if not is_array(value):
        return False
    assert isinstance(value, (np.ndarray, torch.Tensor))
    return value.ndim == 3 and (value.shape[2] in (1, 3, 4) or value.shape[0] in (1, 3, 4))


def level_scale(arrays: Sequence[Array]) -> int:
    """What a clip's numbers are multiplied by: 255 for floats of which none is above 1, else 1.

    Raises:
        MediaError: numbers of another type, or out of range.
    """
    highest = 0.0
    floating = False
    for array in arrays:
        if array.dtype == np.uint8 or not array.size:
            continue
        if array.dtype.kind not in "iuf":
            raise MediaError(
                f"frames of {array.dtype} are no clip; allowed are integers and floats."
            )
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 255):  # also true for NaN
            raise MediaError(
                f"the frames' numbers go from {low:g} to {high:g}; allowed are integers from 0 to "
                "255, and floats from 0 to 255 or from 0 to 1."
            )
        floating = floating or array.dtype.kind == "f"
        highest = max(highest, float(high) if array.dtype.kind == "f" else 255.0)
    return 255 if floating and highest <= 1 else 1


def to_frame(picture: Array, scale: int) -> Frame:
    """(H, W, C) of any allowed numbers → contiguous, writable uint8 levels."""
    if picture.dtype.kind == "f":
        picture = np.rint(picture.astype(np.float32) * np.float32(scale))
    return np.require(picture.astype(np.uint8, copy=False), requirements=["C", "W"])


def _colour(frame: Frame) -> Frame:
    """(H, W, 1), (H, W, 3) or (H, W, 4), as images are read → (H, W, 3)."""
    if frame.shape[2] == 3:
        return frame
    loaded: Frame = ImageKind({}).load([ValueSource(frame)]).value
    return loaded


def _source(frame: Any) -> BytesSource | ValueSource:
    return BytesSource(frame) if isinstance(frame, bytes) else ValueSource(frame)
