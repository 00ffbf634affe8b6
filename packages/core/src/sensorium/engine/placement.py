"""Where an engine runs: in a thread of this process or in a process of its own.

The process that holds the frontend never asks CUDA anything: that would cost it a second, memory on
the device, and the right to fork.
"""

from __future__ import annotations

import os
from pathlib import Path

from sensorium.config import EngineConfig
from sensorium.errors import ConfigError

#: What the driver of an accelerator shows to every process, on a machine and in a container.
DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")


def runs_apart(config: EngineConfig) -> bool:
    """Whether the engine is a process of its own.

    ``engine_process`` decides; without it, an engine on an accelerator is one, and "auto" counts as
    an accelerator where the machine shows one that ``CUDA_VISIBLE_DEVICES`` doesn't hide.

    Raises:
        ConfigError: a process was asked for, and this system has no memory that two could share.
    """
    if config.engine_process is None:
        return hasattr(os, "memfd_create") and _on_accelerator(config.device)
    if config.engine_process and not hasattr(os, "memfd_create"):
        raise ConfigError("engine_process is True; engines in processes of their own need Linux.")
    return config.engine_process


def _on_accelerator(device: str) -> bool:
    if device != "auto":
        return device.partition(":")[0] == "cuda"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return any(Path(file).exists() for file in DEVICE_FILES)
