"""``media_io_kwargs["audio"]``: how audio is read."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sensorium.errors import ConfigError

MIN_RATE, MAX_RATE = 1_000, 384_000
#: Channels that a clip may have: third-order ambisonics have 16.
MAX_CHANNELS = 16
#: Two hours: what ``max_duration_s`` may be set to.
LARGEST_MAX_DURATION_S = 7_200.0
LARGEST_MAX_SAMPLES = 2**40


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """Checked options.

    Attributes:
        max_duration_s: how long a clip may last, in seconds. Example:
            ``media_io_kwargs={"audio": {"max_duration_s": 30}}`` refuses longer ones.
        max_samples: how many samples of a clip may be decoded, all channels counted, at the
            clip's own rate. The default lets ten minutes of 192 kHz stereo pass. Example:
            ``media_io_kwargs={"audio": {"max_samples": 10_000_000}}``.
        sampling_rate: samples a second, as loaded: clips of other rates are resampled, and
            arrays given without a rate have this one. Every model served so far takes 16,000.
            Example: ``media_io_kwargs={"audio": {"sampling_rate": 24_000}}``.
    """

    max_duration_s: float = 600.0
    max_samples: int = 2**28
    sampling_rate: int = 16_000

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> AudioOptions:
        """Reads the user's options.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(
                    f'media_io_kwargs["audio"] has {key!r}; allowed are {", ".join(known)}.'
                )
        checked: dict[str, Any] = {}
        if "max_duration_s" in given:
            checked["max_duration_s"] = _duration(given["max_duration_s"])
        for name, low, high in (
            ("max_samples", 1, LARGEST_MAX_SAMPLES),
            ("sampling_rate", MIN_RATE, MAX_RATE),
        ):
            if name in given:
                checked[name] = _integer(name, given[name], low, high)
        return cls(**checked)


def _duration(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (0 < value <= LARGEST_MAX_DURATION_S and math.isfinite(value)):
        raise ConfigError(
            f"max_duration_s is {value!r}; it must be a number of seconds above 0 and at most "
            f"{LARGEST_MAX_DURATION_S:g}."
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
