"""Rotary position embedding (Su et al. 2021), on one axis or several.

Each pair (i, i + head_size/2) of a head's elements is turned by position · frequency i. With
positions on several axes (M-RoPE, Wang et al. 2024, "Qwen2-VL"), consecutive runs of the
frequencies take their position from one axis each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sensorium.decoder_config import RopeConfig
from sensorium.errors import ConfigError


class Rope:
    """The tables of one decoder.

    Args:
        config: theta, scaling and sections.
        head_size: elements of a head, even.
        device: where positions will be.

    Raises:
        ConfigError: a scaling that isn't implemented, or sections that don't fit.
    """

    def __init__(self, config: RopeConfig, head_size: int, device: torch.device) -> None:
        self._frequencies = inverse_frequencies(config, head_size).to(device)
        self._axes: Tensor | None = None
        if config.sections:
            half = head_size // 2
            if sum(config.sections) != half:
                raise ConfigError(
                    f"The rope sections {list(config.sections)} add up to "
                    f"{sum(config.sections)}; head size {head_size} needs {half}."
                )
            axes = torch.arange(len(config.sections), device=device)
            self._axes = axes.repeat_interleave(torch.tensor(config.sections, device=device))

    def tables(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions (axes, N).

        Returns:
            Each (N, head_size/2) in ``dtype``, contiguous.
        """
        if self._axes is None:
            assert len(positions) == 1, "positions on several axes need rope sections"
            at = positions[0, :, None]
        else:
            if len(positions) == 1:
                positions = positions.expand(int(self._axes[-1]) + 1, -1)
            at = positions[self._axes].T.contiguous()
        angles = at.float() * self._frequencies
        return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (i, i + turned/2) of the first ``turned`` elements of the last dimension.

    Args:
        x: (..., size).
        cos, sin: broadcast to (..., turned/2); elements behind ``turned`` stay as they are.

    Returns:
        (..., size) in the dtype that ``x`` and the tables promote to.
    """
    half = cos.shape[-1]
    first, second, rest = torch.split(x, [half, half, x.shape[-1] - 2 * half], dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat((*turned, rest) if rest.shape[-1] else turned, dim=-1)


def inverse_frequencies(config: RopeConfig, head_size: int) -> Tensor:
    """theta^(-2i / head_size) for i below head_size/2, scaled as the config says: float32.

    Raises:
        ConfigError: a scaling that isn't implemented, or lacks one of its numbers.
    """
    steps = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    plain = 1.0 / (config.theta**steps)
    if not config.scaling:
        return plain
    name = config.scaling.get("rope_type", config.scaling.get("type", "default"))
    if name not in SCALINGS:
        raise ConfigError(f"rope_scaling is of type {name!r}; built are {', '.join(SCALINGS)}.")
    return SCALINGS[name](plain, config.scaling)


def _linear(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Positions divided by ``factor`` (position interpolation, Chen et al. 2023)."""
    return plain / _number(scaling, "factor")


def _llama3(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Llama 3.1's: long wavelengths divided by ``factor``, short ones kept, blended between."""
    factor = _number(scaling, "factor")
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    original = _number(scaling, "original_max_position_embeddings")
    wavelengths = 2 * math.pi / plain
    scaled = torch.where(wavelengths > original / low, plain / factor, plain)
    share = (original / wavelengths - low) / (high - low)
    blended = (1 - share) * scaled / factor + share * scaled
    between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return torch.where(between, blended, scaled)


def _number(scaling: Mapping[str, Any], name: str) -> float:
    value = scaling.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ConfigError(f"rope_scaling has {name} {value!r}; it must be a number.")
    return float(value)


#: Types of ``rope_scaling``; another is added by one function and one line.
SCALINGS: Mapping[str, Callable[[Tensor, Mapping[str, Any]], Tensor]] = {
    "default": lambda plain, scaling: plain,
    "mrope": lambda plain, scaling: plain,
    "linear": _linear,
    "llama3": _llama3,
}
