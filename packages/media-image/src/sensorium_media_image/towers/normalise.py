"""Rescaling and normalising pixels on the device, as the published processors do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sensorium.errors import ConfigError
from sensorium.ops import cut_blocks

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """value · rescale, minus ``mean``, over ``std``, each channel with its own.

    Attributes:
        rescale: factor of the uint8 value, usually 1/255.
        mean, std: one entry a channel: red, green, blue.
    """

    rescale: float = 1 / 255
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(3,) float32 each: mean and std in units of the uint8 values.

        (value · r - mean) / std = (value - mean / r) / (std / r): this order of operations, in
        float32, is that of transformers' torchvision processors.
        """
        factor = 1.0 / self.rescale
        mean = torch.tensor(self.mean, device=device) * factor
        return mean, torch.tensor(self.std, device=device) * factor

    def patches(self, pixels: Tensor, patch_size: int, device: torch.device) -> Tensor:
        """Pixels cut into the patches that a trunk projects, then normalised.

        Args:
            pixels: (B, H, W, 3) uint8, or float32 of the same units. What is left over on the right
                and below is cut off.

        Returns:
            (B, patches, 3·P·P) float32: patches by row and column, elements by channel, row,
            column.
        """
        return cut_blocks(pixels.to(device), patch_size, *self.constants(device))


def read_normalisation(processor: Mapping[str, Any]) -> Normalisation:
    """From ``preprocessor_config.json``; what it leaves out is CLIP's.

    Raises:
        ConfigError: a value of the wrong type or shape.
    """
    default = Normalisation()
    rescale = processor.get("rescale_factor")
    if rescale is None:
        rescale = default.rescale
    if not _is_number(rescale) or rescale <= 0:
        raise ConfigError(f"rescale_factor is {rescale!r}; it must be a number above 0.")
    mean = _channels(processor, "image_mean", default.mean)
    std = _channels(processor, "image_std", default.std)
    if min(std) <= 0:
        raise ConfigError(f"image_std is {list(std)}; each entry must be above 0.")
    return Normalisation(float(rescale), mean, std)


def _channels(
    processor: Mapping[str, Any], name: str, default: tuple[float, ...]
) -> tuple[float, ...]:
    value = processor.get(name)
    if value is None:
        return default
    if not isinstance(value, Sequence) or len(value) != 3 or not all(map(_is_number, value)):
        raise ConfigError(f"{name} is {value!r}; it must be a list of three numbers.")
    return tuple(float(entry) for entry in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
