"""``media_io_kwargs["video"]``: how video is read."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sensorium.errors import ConfigError

#: What ``max_duration_s`` may be set to: a day.
LARGEST_MAX_DURATION_S = 86_400.0
LARGEST_MAX_FRAMES = 2**24
LARGEST_MAX_FRAME_PIXELS = 2**27
LARGEST_RATE = 1_000.0


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """Checked options.

    Attributes:
        num_frames: how many frames of an encoded clip count; the model's family chooses which.
            None: as the family's rule says. Example:
            ``media_io_kwargs={"video": {"num_frames": 16}}``.
        fps: how many frames of a second of an encoded clip count. None: as the family's rule says.
            Example: ``media_io_kwargs={"video": {"fps": 1}}``.
        max_duration_s: how long a clip may last, in seconds. Example:
            ``media_io_kwargs={"video": {"max_duration_s": 60}}`` refuses longer ones.
        max_frames: frames that a clip may have, before any are chosen. The default is an hour at 72
            frames a second. Example: ``media_io_kwargs={"video": {"max_frames": 10_000}}``.
        max_listed_frames: frames of a clip that comes as single pictures (a ``video/jpeg`` URL,
            a list of pictures or arrays), all of which count. Example:
            ``media_io_kwargs={"video": {"max_listed_frames": 64}}``.
        max_frame_pixels: width × height of a frame at most. The default is 4096×2304. Example:
            ``media_io_kwargs={"video": {"max_frame_pixels": 1920 * 1080}}``.
    """

    num_frames: int | None = None
    fps: float | None = None
    max_duration_s: float = 3_600.0
    max_frames: int = 259_200
    max_listed_frames: int = 4_096
    max_frame_pixels: int = 4096 * 2304

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> VideoOptions:
        """Reads the user's options.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(
                    f'media_io_kwargs["video"] has {key!r}; allowed are {", ".join(known)}.'
                )
        checked: dict[str, Any] = {}
        for name, high in (
            ("num_frames", LARGEST_MAX_FRAMES),
            ("max_frames", LARGEST_MAX_FRAMES),
            ("max_listed_frames", LARGEST_MAX_FRAMES),
            ("max_frame_pixels", LARGEST_MAX_FRAME_PIXELS),
        ):
            if name in given and not (given[name] is None and name == "num_frames"):
                checked[name] = _integer(name, given[name], 1, high)
        if given.get("fps") is not None:
            checked["fps"] = _number("fps", given["fps"], LARGEST_RATE, "frames a second")
        if "max_duration_s" in given:
            checked["max_duration_s"] = _number(
                "max_duration_s", given["max_duration_s"], LARGEST_MAX_DURATION_S, "seconds"
            )
        return cls(**checked)


def _number(name: str, value: Any, high: float, unit: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (0 < value <= high and math.isfinite(value)):
        raise ConfigError(
            f"{name} is {value!r}; it must be a number of {unit} above 0 and at most {high:g}."
        )
    return float(value)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise ConfigError(f"{name} is {value!r}; it must be an integer from {low} to {high}.")
    return number
