"""``media_io_kwargs["audio"]``: how audio is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensorium.plugins.options import check_options, integer, positive_number

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
        return cls(**check_options('media_io_kwargs["audio"]', given, _CHECKS))


_CHECKS = {
    "max_duration_s": positive_number(LARGEST_MAX_DURATION_S, "seconds"),
    "max_samples": integer(1, LARGEST_MAX_SAMPLES),
    "sampling_rate": integer(MIN_RATE, MAX_RATE),
}
