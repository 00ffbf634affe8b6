"""Rope scalings: the rotary frequencies, and the factor of cosines and sines.

Two types depend on how long a sequence is: dynamic NTK and LongRoPE. transformers chooses anew in
every forward pass, by the longest sequence of the batch. A paged KV cache can't: keys that were
turned by other frequencies lie in it already, of the same sequence and, through the prefix cache,
of others. So the choice is made once, by the longest sequence that the engine admits
(``max_model_len``), and holds for every sequence whatever its own length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sensorium.decoder_config import RopeConfig
from sensorium.errors import ConfigError


def rotary_size(config: RopeConfig, head_size: int) -> int:
    """How many of a head's elements are turned, from the first on.

    Raises:
        ConfigError: an odd number, or more than there are.
    """
    size = int(head_size * config.share)
    if not 0 < size <= head_size or size % 2:
        raise ConfigError(
            f"partial_rotary_factor is {config.share:g}; of a head's {head_size} elements it turns "
            f"{size}, which must be an even number above 0 and no more than there are."
        )
    return size


def inverse_frequencies(config: RopeConfig, head_size: int, max_len: int | None = None) -> Tensor:
    """theta^(-2i / n) for i below n/2, n elements being turned, scaled as the config says: float32.

    Args:
        max_len: tokens of the longest sequence there can be; None: within the length that the
            checkpoint was trained on before its context was extended.

    Raises:
        ConfigError: a scaling that isn't implemented, or lacks one of its numbers.
    """
    size = rotary_size(config, head_size)
    if not config.scaling:
        return 1.0 / _powers(config.theta, size)
    return SCALINGS[_type_of(config)](config, size, max_len)


def attention_factor(config: RopeConfig) -> float:
    """What cosines and sines are multiplied by: above 1 for extended contexts of some types.

    Raises:
        ConfigError: as ``inverse_frequencies``.
    """
    scaling = config.scaling
    if not scaling:
        return 1.0
    name = _type_of(config)
    if name not in FACTORS:
        return 1.0
    if scaling.get("attention_factor") is not None:
        return _number(scaling, "attention_factor")
    return FACTORS[name](scaling)


def _type_of(config: RopeConfig) -> str:
    name = config.scaling.get("rope_type", config.scaling.get("type", "default"))
    if name not in SCALINGS:
        raise ConfigError(f"rope_scaling is of type {name!r}; built are {', '.join(SCALINGS)}.")
    return str(name)


def _powers(theta: float, size: int) -> Tensor:
    """theta^(2i / size) for i below size/2, float32."""
    powers: Tensor = theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    return powers


def _plain(config: RopeConfig, size: int, max_len: int | None) -> Tensor:
    return 1.0 / _powers(config.theta, size)


def _linear(config: RopeConfig, size: int, max_len: int | None) -> Tensor:
    """Positions divided by ``factor`` (position interpolation, Chen et al. 2023)."""
    return 1.0 / _powers(config.theta, size) / _number(config.scaling, "factor")


def _dynamic(config: RopeConfig, size: int, max_len: int | None) -> Tensor:
    """A theta that grows with the length behind the original one ("dynamic NTK", bloc97 2023)."""
    factor = _number(config.scaling, "factor")
    original = _number(config.scaling, "original_max_position_embeddings")
    length = max(max_len or 0, original)
    stretch = factor * length / original - (factor - 1)
    return 1.0 / _powers(config.theta * stretch ** (size / (size - 2)), size)


def _llama3(config: RopeConfig, size: int, max_len: int | None) -> Tensor:
    """Llama 3.1's: long wavelengths divided by ``factor``, short ones kept, blended between."""
    scaling, plain = config.scaling, 1.0 / _powers(config.theta, size)
    factor = _number(scaling, "factor")
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    original = _number(scaling, "original_max_position_embeddings")
    wavelengths = 2 * math.pi / plain
    scaled = torch.where(wavelengths > original / low, plain / factor, plain)
    share = (original / wavelengths - low) / (high - low)
    blended = (1 - share) * scaled / factor + share * scaled
    between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return torch.where(between, blended, scaled)


def _yarn(config: RopeConfig, size: int, max_len: int | None) -> Tensor:
    """YaRN (Peng et al. 2023): fast pairs keep their frequency, slow ones' is divided by
    ``factor``, with a ramp between.

    A pair is fast that makes ``beta_fast`` turns or more within the original context, and slow
    that makes ``beta_slow`` or fewer.
    """
    scaling, powers = config.scaling, _powers(config.theta, size)
    factor = _number(scaling, "factor")
    original = _number(scaling, "original_max_position_embeddings")

    def pair_that_turns(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

    first = pair_that_turns(_number(scaling, "beta_fast", 32.0))
    last = pair_that_turns(_number(scaling, "beta_slow", 1.0))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    width = last - first or 0.001
    slow = ((torch.arange(size // 2, dtype=torch.float32) - first) / width).clamp(0, 1)
    kept = 1 - slow
    return 1.0 / (factor * powers) * (1 - kept) + 1.0 / powers * kept


def _longrope(config: RopeConfig, size: int, max_len: int | None) -> Tensor:
    """LongRoPE (Ding et al. 2024): each pair's frequency divided by a searched factor of its own.

    There are two sets, for sequences within the original length and for longer ones.
    """
    original = _number(config.scaling, "original_max_position_embeddings")
    name = "long_factor" if (max_len or 0) > original else "short_factor"
    factors = config.scaling.get(name)
    if not isinstance(factors, list) or len(factors) != size // 2:
        given = f"{len(factors)} of them" if isinstance(factors, list) else repr(factors)
        raise ConfigError(
            f"rope_scaling has {name} {given}; it must be a list of {size // 2} numbers, one for "
            "each pair that is turned."
        )
    return 1.0 / (torch.tensor(factors, dtype=torch.float32) * _powers(config.theta, size))


def _yarn_factor(scaling: Mapping[str, Any]) -> float:
    """0.1 · ln(factor) + 1, or the quotient of two such with their own weights (DeepSeek-V2)."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    factor = _number(scaling, "factor")
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return scale(_number(scaling, "mscale")) / scale(_number(scaling, "mscale_all_dim"))
    return scale(1.0)


def _longrope_factor(scaling: Mapping[str, Any]) -> float:
    """√(1 + ln(factor) / ln(original length)); one for both sets of frequencies."""
    factor = _number(scaling, "factor")
    original = _number(scaling, "original_max_position_embeddings")
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def _number(scaling: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = scaling.get(name) or default  # 0 is as good as nothing for every one of them
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ConfigError(
            f"rope_scaling has {name} {scaling.get(name)!r}; it must be a number other than 0."
        )
    return float(value)


#: Types of ``rope_scaling``; another is added by one function and one line.
SCALINGS: Mapping[str, Callable[[RopeConfig, int, int | None], Tensor]] = {
    "default": _plain,
    "mrope": _plain,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
#: The types that lengthen what they turn.
FACTORS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "yarn": _yarn_factor,
    "longrope": _longrope_factor,
}
