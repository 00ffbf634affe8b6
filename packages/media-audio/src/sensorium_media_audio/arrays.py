"""Clips given as arrays, tensors and lists: the shapes and numbers that are allowed.

    (samples,)              one channel
    (samples, channels)     where the first axis is the longer one, as soundfile gives them
    (channels, samples)     where the second one is, as torchaudio gives them

The shorter axis holds the channels, 16 at most; a square array of more than one number is ambiguous
and refused. Numbers: floats are −1 … 1 (a little more is kept); int8, int16 and int32
are divided by their type's largest magnitude, uint8 is shifted by 128 first, as in WAV files. Other
integers have no known scale and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from sensorium.errors import MediaError
from sensorium_media_audio.mixdown import BLOCK_FRAMES, FloatArray
from sensorium_media_audio.options import MAX_CHANNELS

Array: TypeAlias = npt.NDArray[Any]

_SCALES = {"int8": 2.0**-7, "int16": 2.0**-15, "int32": 2.0**-31, "uint8": 2.0**-7}


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded clip as the caller gave it.

    Attributes:
        samples: an array, a tensor or a list of floats.
        rate: samples a second; None: the rate that the model takes.
    """

    samples: Any
    rate: int | None = None


def is_array(value: object) -> bool:
    """Whether ``value`` is an array or a tensor."""
    return isinstance(value, (np.ndarray, torch.Tensor))


def is_floating(value: Array | torch.Tensor) -> bool:
    """Whether its numbers are floating-point ones."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    return value.dtype.kind == "f"


def is_number(value: object) -> bool:
    """Whether ``value`` is one real number, of Python or of NumPy."""
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, (int, float, np.integer, np.floating))


def to_array(samples: Any) -> Array:
    """(samples,) or (samples, channels), in the numbers that were given; no copy of arrays.

    Raises:
        MediaError: a shape, or numbers, that no clip has.
    """
    if isinstance(samples, torch.Tensor):
        samples = samples.detach()
        if samples.is_floating_point():
            samples = samples.to("cpu", torch.promote_types(samples.dtype, torch.float32))
        array: Array = samples.cpu().resolve_conj().numpy()
    elif isinstance(samples, (list, tuple)):
        array = _listed(samples)
    else:
        array = samples
    if array.dtype.kind != "f" and array.dtype.name not in _SCALES:
        raise MediaError(
            f"an array of {array.dtype} is no clip; allowed are floats (full scale is 1), "
            f"{', '.join(_SCALES)}."
        )
    if array.ndim in (1, 2) and not array.size:
        raise MediaError("the clip is empty; it must have one sample at least.")
    if array.ndim == 2:
        return _channels_last(array)
    if array.ndim != 1:
        raise MediaError(
            f"an array of shape {tuple(array.shape)} is no clip; allowed are (samples,), "
            "(samples, channels) and (channels, samples)."
        )
    return array


def blocks(array: Array) -> Iterator[FloatArray]:
    """Blocks (frames, channels) of what ``to_array`` returned, scaled.

    Blocks of a float32 array are views of it: a block must not be written to.
    """
    scale = _SCALES.get(array.dtype.name)
    columns = array[:, None] if array.ndim == 1 else array
    for start in range(0, len(columns), BLOCK_FRAMES):
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            block = columns[start : start + BLOCK_FRAMES].astype(np.float32, copy=False)
        if array.dtype.name == "uint8":
            block -= 128
        if scale is not None:
            block *= np.float32(scale)
        yield block


def _listed(samples: list[Any] | tuple[Any, ...]) -> Array:
    wrong = next((entry for entry in samples if not is_number(entry)), None)
    if wrong is not None:
        raise MediaError(
            f"a list of numbers has a {type(wrong).__name__} in it; a clip is numbers alone."
        )
    if samples and all(isinstance(entry, (int, np.integer)) for entry in samples):
        raise MediaError(
            "a list of integers has no known scale; pass floats (full scale is 1), or an array "
            "of int16."
        )
    try:
        return np.asarray(samples, dtype=np.float64)
    except OverflowError:
        raise MediaError("a list of numbers has one that is too large.") from None


def _channels_last(array: Array) -> Array:
    rows, columns = array.shape
    shape = f"an array of shape {(rows, columns)}"
    if rows == columns and rows > 1:
        raise MediaError(f"{shape} doesn't tell which axis is the channels'.")
    if min(rows, columns) > MAX_CHANNELS:
        raise MediaError(
            f"{shape} has no axis of channels: there may be {MAX_CHANNELS} of them at most."
        )
    return array if rows >= columns else array.T
