"""The activation functions that published tower configs name: core's, and two more."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from sensorium.errors import ConfigError
from sensorium.models.layers import ACTIVATIONS as CORE_ACTIVATIONS

Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), the approximation of GELU that CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU with its usual approximation by tanh (Hendrycks and Gimpel 2016)."""
    return functional.gelu(x, approximate="tanh")


#: By the name a config gives; another is added by one line.
ACTIVATIONS: Mapping[str, Activation] = {
    **CORE_ACTIVATIONS,
    "quick_gelu": quick_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
}


def activation(name: str, where: str) -> Activation:
    """The function called ``name`` in the config's entry ``where``.

    Raises:
        ConfigError: none of that name is built.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"{where} is {name!r}; built are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
