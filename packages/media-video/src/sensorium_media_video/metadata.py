"""What comes beside frames: ``(frames, metadata)``, as readers of other projects return it.

A mapping, or a dataclass such as transformers' ``VideoMetadata``, with any of

    fps                 of the clip that the frames are from
    total_num_frames    of that clip
    frames_indices      which of its frames these are
    duration            of that clip, in seconds
    do_sample_frames    true: these are all its frames, and a family's rule may choose among them
    width, height, video_backend    for information
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from sensorium.errors import MediaError

_KEYS = (
    *("fps", "total_num_frames", "frames_indices", "duration", "do_sample_frames"),
    *("width", "height", "video_backend"),
)


@dataclass(frozen=True, slots=True)
class ClipMetadata:
    """Checked metadata; None where nothing was said."""

    fps: float | None = None
    total_num_frames: int | None = None
    frames_indices: tuple[int, ...] | None = None
    duration: float | None = None
    do_sample_frames: bool = False

    @property
    def sampled(self) -> bool:
        """Whether the frames were chosen before."""
        return not self.do_sample_frames

    def rate(self, num_frames: int) -> float:
        """The rate of the frames themselves, of which there are ``num_frames``; 0: not known."""
        if self.fps is None:
            return num_frames / self.duration if self.duration else 0.0
        if not self.sampled:
            return self.fps
        if self.total_num_frames is not None:
            return num_frames / self.total_num_frames * self.fps
        indices = self.frames_indices
        if indices is not None and num_frames > 1 and indices[-1] > indices[0]:
            return (num_frames - 1) / (indices[-1] - indices[0]) * self.fps
        return self.fps

    def times(self) -> tuple[float, ...]:
        """When each frame is shown, in seconds; () where that isn't said, or is even."""
        indices = self.frames_indices
        if indices is None or self.fps is None or not self.sampled:
            return ()
        if indices[0] == 0 and len({other - one for one, other in pairwise(indices)}) <= 1:
            step = indices[1] if len(indices) > 1 else 0
            total = self.total_num_frames
            if total is None or step * len(indices) == total:
                return ()
        return tuple(index / self.fps for index in indices)

    def seconds(self, num_frames: int) -> float:
        """How long the clip lasts; 0: not known."""
        if self.duration is not None:
            return self.duration
        if self.fps is not None and self.total_num_frames is not None:
            return self.total_num_frames / self.fps
        rate = self.rate(num_frames)
        return num_frames / rate if rate else 0.0


def is_metadata(value: object) -> bool:
    """Whether ``value`` can be metadata: a mapping or a dataclass's instance."""
    return isinstance(value, Mapping) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def read_metadata(value: Any, num_frames: int) -> ClipMetadata:
    """Checks metadata of ``num_frames`` frames.

    Raises:
        MediaError: an unknown key, or a value that can't be.
    """
    if isinstance(value, Mapping):
        entries = dict(value)
    else:
        entries = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for key in entries:
        if key not in _KEYS:
            raise MediaError(f"the metadata have {str(key)!r}; allowed are {', '.join(_KEYS)}.")
    entries = {key: entry for key, entry in entries.items() if entry is not None}
    sample = entries.get("do_sample_frames", False)
    if not isinstance(sample, (bool, np.bool_)):
        raise MediaError(f"the metadata's do_sample_frames is {sample!r}; it must be a bool.")
    metadata = ClipMetadata(
        fps=_number("fps", entries.get("fps")),
        total_num_frames=_count("total_num_frames", entries.get("total_num_frames")),
        frames_indices=_indices(entries.get("frames_indices"), num_frames),
        duration=_number("duration", entries.get("duration")),
        do_sample_frames=bool(sample),
    )
    _check(metadata, num_frames)
    return metadata


def _check(metadata: ClipMetadata, num_frames: int) -> None:
    total = metadata.total_num_frames
    if metadata.do_sample_frames and metadata.fps is None:
        raise MediaError("the metadata have do_sample_frames and no fps to choose frames by.")
    if metadata.do_sample_frames and total not in (None, num_frames):
        raise MediaError(
            f"the metadata have do_sample_frames, and {num_frames} frames of {total}; frames to "
            "choose from must be all of them."
        )
    indices = metadata.frames_indices
    if indices is not None and total is not None and indices[-1] >= total:
        raise MediaError(
            f"the metadata's frames_indices go to {indices[-1]}, and total_num_frames is {total}."
        )


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise MediaError(f"the metadata's {name} is {value!r}; it must be a number above 0.")
    return float(value)


def _count(name: str, value: Any) -> int | None:
    """A count, as an integer or as a float: qwen-vl-utils works its own out from rates."""
    if value is None:
        return None
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        is_float = isinstance(value, (float, np.floating)) and math.isfinite(value)
        count = round(float(value)) if is_float else None
    if count is None or count < 1:
        raise MediaError(f"the metadata's {name} is {value!r}; it must be a number of at least 1.")
    return count


def _indices(value: Any, num_frames: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise MediaError(f"the metadata's frames_indices are a {type(value).__name__}, no list.")
    if len(value) != num_frames:
        raise MediaError(f"the metadata have {len(value)} frames_indices for {num_frames} frames.")
    try:
        indices = tuple(map(operator.index, value))
    except TypeError:
        raise MediaError("the metadata's frames_indices must be integers.") from None
    if min(indices) < 0 or any(one > other for one, other in pairwise(indices)):
        raise MediaError("the metadata's frames_indices must ascend from 0 or above.")
    return indices
