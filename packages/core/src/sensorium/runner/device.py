"""Chooses the device and dtype of an engine."""

from __future__ import annotations

import torch

from sensorium.config import EngineConfig
from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError

DTYPES = {
    "half": torch.float16,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float": torch.float32,
    "float32": torch.float32,
}


def choose_device(config: EngineConfig) -> torch.device:
    """The device that ``device=`` names; "auto" is CUDA where there is any.

    Raises:
        ConfigError: an unknown device, or one that this machine doesn't have.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ConfigError(f"device is {config.device!r}; allowed are auto, cpu, cuda and cuda:N.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device is {config.device!r}; torch sees {torch.cuda.device_count()} CUDA devices."
        )
    return torch.device(name)


def choose_dtype(config: EngineConfig, decoder: DecoderConfig, device: torch.device) -> torch.dtype:
    """The dtype that ``dtype=`` names; "auto" is the checkpoint's own.

    float16 becomes float32 on the CPU, where torch has no fast float16.

    Raises:
        ConfigError: the checkpoint's own dtype isn't supported.
    """
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    own = decoder.dtype or "float32"
    if own not in DTYPES:
        raise ConfigError(
            f"The checkpoint's dtype is {own!r}; give dtype= one of {', '.join(DTYPES)}."
        )
    dtype = DTYPES[own]
    return torch.float32 if dtype == torch.float16 and device.type == "cpu" else dtype
