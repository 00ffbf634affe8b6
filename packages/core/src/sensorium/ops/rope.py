"""Rotary position embedding (Su et al. 2021), on one axis or several.

Each pair (i, i + n/2) of a head's first n elements is turned by position · frequency i, n being
the head's size unless the config turns less of it. How a checkpoint's scaling changes frequencies
is in ``rope_scaling.py``. With
positions on several axes (M-RoPE, Wang et al. 2024, "Qwen2-VL"), consecutive runs of the
frequencies take their position from one axis each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sensorium.decoder_config import RopeConfig
from sensorium.errors import ConfigError
from sensorium.ops import extension
from sensorium.ops.rope_scaling import attention_factor, inverse_frequencies


class Rope:
    """The tables of one decoder.

    Args:
        config: theta, scaling and sections.
        head_size: elements of a head.
        device: where positions will be.
        max_len: tokens of the longest sequence there can be, by which some scalings choose;
            None: within the original context.

    Raises:
        ConfigError: a scaling that isn't implemented, or sections that don't fit.
    """

    def __init__(
        self,
        config: RopeConfig,
        head_size: int,
        device: torch.device,
        max_len: int | None = None,
    ) -> None:
        self._frequencies = inverse_frequencies(config, head_size, max_len).to(device)
        self._factor = attention_factor(config)
        self._axes: Tensor | None = None
        if config.sections:
            half = len(self._frequencies)
            if sum(config.sections) != half:
                raise ConfigError(
                    f"The rope sections {list(config.sections)} add up to "
                    f"{sum(config.sections)}; head size {head_size} needs {half}."
                )
            axes = torch.arange(len(config.sections), device=device)
            self._axes = axes.repeat_interleave(torch.tensor(config.sections, device=device))

    def tables(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions (axes, N): each (N, turned/2), contiguous, in
        ``dtype``."""
        if self._axes is None:
            assert len(positions) == 1, "positions on several axes need rope sections"
            at = positions[0, :, None]
        else:
            if len(positions) == 1:
                positions = positions.expand(int(self._axes[-1]) + 1, -1)
            at = positions[self._axes].T.contiguous()
        angles = at.float() * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        if self._factor != 1.0:
            cos, sin = cos * self._factor, sin * self._factor
        return cos.to(dtype), sin.to(dtype)


def apply_rope_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """As ``apply_rope``, in place: computed in float32 whatever ``x`` is, and rounded once.

    Args:
        x: (N, heads, size); the last dimension contiguous.
        cos, sin: (N, turned/2), float32, contiguous.
    """
    if extension.serves(x):
        extension.count(x, "rope")
        torch.ops.sensorium.rope(x, cos, sin)
    else:
        x.copy_(apply_rope(x.float(), cos[:, None], sin[:, None]))


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
