"""Images given as arrays and tensors: which shapes and numbers they may have.

    (H, W, C)   where the last dimension is 1, 3 or 4
    (C, H, W)   else, where the first one is

Channels: 1 grey, 3 RGB, 4 RGBA. Numbers: bool is black and white; integers are 0 … 255;
floats are 0 … 1 if none is above 1, else 0 … 255, rounded. An image whose floats are all at most 1
can't be meant as 0 … 255: it would be black.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from sensorium.errors import MediaError

Array: TypeAlias = npt.NDArray[Any]
Uint8Array: TypeAlias = npt.NDArray[np.uint8]

CHANNELS = (1, 3, 4)


def is_array(value: object) -> bool:
    """Whether ``value`` is an array or a tensor."""
    return isinstance(value, (np.ndarray, torch.Tensor))


def is_embedding(value: Array | torch.Tensor, width: int | None = None) -> bool:
    """Whether a 3-D array or tensor is embeddings (items, tokens, hidden) and not an image.

    Embeddings are floating-point, and either neither their first nor their last dimension is a
    number of channels, or they are a tensor whose last dimension is ``width``, the model's, and
    that can't be an image: the first dimension is 1 (one item, the usual case), or values are
    outside 0 … 255. With ``width`` None any last dimension may be the model's.
    """
    if not is_floating(value) or value.ndim != 3 or value.shape[2] in CHANNELS:
        return False
    if value.shape[0] not in CHANNELS:
        return True
    if isinstance(value, np.ndarray) or (width is not None and value.shape[2] != width):
        return False
    return value.shape[0] == 1 or not _within_levels(value)


def is_floating(value: Array | torch.Tensor) -> bool:
    """Whether its numbers are floating-point ones."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    return value.dtype.kind == "f"


def _within_levels(value: torch.Tensor) -> bool:
    if value.layout != torch.strided or value.is_meta or value.numel() == 0:
        return True  # reading it as an image will report what is wrong with it
    low, high = torch.aminmax(value.detach().float())
    return bool(low >= 0) and bool(high <= 255)


def picture_size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels) of an image's shape.

    Raises:
        MediaError: no image has this shape.
    """
    if len(shape) == 3 and shape[2] in CHANNELS:
        return shape[0], shape[1], shape[2]
    if len(shape) == 3 and shape[0] in CHANNELS:
        return shape[1], shape[2], shape[0]
    raise MediaError(
        f"an array of shape {tuple(shape)} is no picture; allowed are (height, width, channels) "
        "and (channels, height, width) with 1, 3 or 4 channels."
    )


def to_numpy(value: Array | torch.Tensor) -> Array:
    """A tensor's numbers in host memory; an array is returned as it is.

    Raises:
        MediaError: a sparse tensor, or one without numbers.
    """
    if isinstance(value, np.ndarray):
        return value
    if value.layout != torch.strided or value.is_meta:
        raise MediaError("the tensor is sparse or has no data; only dense tensors are pictures.")
    value = value.detach().cpu()
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()  # numpy has no bfloat16
    array: Array = value.numpy()
    return array


def to_levels(array: Array, embedding_width: int | None = None) -> Uint8Array:
    """Any allowed numbers → uint8 levels, by the rule at the top of this file.

    Args:
        embedding_width: the model's, for the message: out of range, they may have been meant as
            embeddings.

    Raises:
        MediaError: another type of numbers, or numbers out of range.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise MediaError(
            f"an array of {array.dtype} is no picture; allowed are bool, integers and floats."
        )
    if array.size == 0:
        return array.astype(np.uint8)
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # also true for NaN
        raise MediaError(
            f"the array's numbers go from {low:g} to {high:g}; allowed are integers from 0 to 255 "
            f"and floats from 0 to 1 or from 0 to 255.{_embeddings_note(array, embedding_width)}"
        )
    if array.dtype.kind == "f":
        array = np.rint(array.astype(np.float32) * (255 if high <= 1 else 1))
    return array.astype(np.uint8)


def _embeddings_note(array: Array, width: int | None) -> str:
    if width is None or array.dtype.kind != "f":
        return ""
    return (
        " Pixels are given as they are, not normalised; embeddings for this model are "
        f"(items, tokens, {width})."
    )


def to_channels_last(array: Array) -> Array:
    """(H, W, C) or (C, H, W) → (H, W, C), without copying."""
    picture_size(array.shape)
    return array if array.shape[2] in CHANNELS else np.moveaxis(array, 0, 2)
