"""``Mixdown``: blocks of decoded samples → one mono clip at one rate, within the budgets.

Every clip goes through a ``Mixdown``, whichever library decodes it. Each block is counted, checked,
mixed and resampled before the next one is decoded. So decoding stops as soon as a small file grows
beyond the budgets, and a long clip is held in memory at the wanted rate only.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from sensorium.errors import LimitError, MediaError
from sensorium_media_audio.options import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioOptions

FloatArray: TypeAlias = npt.NDArray[np.float32]

#: Samples of one channel in a block that is decoded at once: a second or two.
BLOCK_FRAMES = 2**16
#: The largest magnitude that is allowed. Full scale is 1, and mastered recordings overshoot it a
#: little; 16 is 24 dB above it. 16-bit samples that were not divided by 32768 are far beyond.
MAX_LEVEL = 16.0


class Mixdown:
    """Takes a clip's blocks one after another.

    Args:
        rate: samples a second of the blocks.
        options: the budgets, and the rate of the finished clip.

    Raises:
        MediaError: a rate that isn't allowed.
    """

    def __init__(self, rate: int, options: AudioOptions) -> None:
        check_rate(rate)
        self._rate = rate
        self._options = options
        self._num_frames = 0
        self._num_samples = 0
        self._mono: list[FloatArray] = []
        self._resampler = (
            None
            if rate == options.sampling_rate
            else soxr.ResampleStream(rate, options.sampling_rate, 1, dtype="float32")
        )

    @property
    def num_frames(self) -> int:
        """Samples of one channel taken so far, at the clip's own rate."""
        return self._num_frames

    def take(self, block: FloatArray) -> None:
        """Counts, checks, mixes and resamples one block (frames, channels).

        Channels are averaged, so that the sum of loud ones stays within full scale.

        Raises:
            LimitError: a budget is used up.
            MediaError: samples that are no numbers, or too many channels.
        """
        frames, channels = block.shape
        self._num_frames += frames
        self._num_samples += frames * channels
        check_channels(channels)
        check_budget(self._num_frames, self._num_samples, self._rate, self._options)
        if not frames:
            return
        # The comparison is false for NaN and infinities as well.
        level = max(float(block.max()), -float(block.min()))
        if not level <= MAX_LEVEL:
            raise MediaError(_bad_level(block, level))
        mono = block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float32)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono))
        self._mono.append(mono)  # a view of the block, perhaps; ``finish`` copies

    def finish(self) -> FloatArray:
        """The clip: (samples,) float32 at the wanted rate, contiguous and writable.

        Raises:
            MediaError: nothing was taken.
        """
        if self._num_frames == 0:
            raise MediaError("the clip is empty; it must have one sample at least.")
        if self._resampler is not None:
            rest = self._resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)
            self._mono.append(rest)
        samples = np.concatenate(self._mono, dtype=np.float32)
        # Resampling may leave nothing of a few samples at a high rate.
        return samples if len(samples) else np.zeros(1, dtype=np.float32)


def check_rate(rate: int) -> None:
    """Raises MediaError where ``rate`` is out of range."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(
            f"its sampling rate is {rate}; allowed are {MIN_RATE} to {MAX_RATE} samples a second."
        )


def check_channels(channels: int) -> None:
    """Raises MediaError where there are none, or too many."""
    if not 1 <= channels <= MAX_CHANNELS:
        raise MediaError(f"it has {channels} channels; allowed are 1 to {MAX_CHANNELS}.")


def check_budget(num_frames: int, num_samples: int, rate: int, options: AudioOptions) -> None:
    """Raises LimitError where so many samples are too many.

    Args:
        num_frames: samples of one channel.
        num_samples: samples of all channels.
    """
    if num_frames > options.max_duration_s * rate:
        raise LimitError(
            f"it lasts longer than {options.max_duration_s:g} s, which is what max_duration_s "
            "allows."
        )
    if num_samples > options.max_samples:
        raise LimitError(
            f"it has more than {options.max_samples} samples, which is what max_samples allows."
        )


def _bad_level(block: FloatArray, level: float) -> str:
    if not np.isfinite(block).all():
        return "it has samples that are no numbers, or infinite."
    return (
        f"its samples go up to {level:g}; full scale is 1, and at most {MAX_LEVEL:g} is allowed "
        "(integers are scaled by their type: int16 by 1/32768)."
    )
