"""What published checkpoints of this package's families hold: names, shapes, configs, sources.

The form is core's (``sensorium.models.manifests``); nothing at run time reads these.
"""

from __future__ import annotations

from sensorium.models.manifests import Manifest
from sensorium.models.manifests import load_manifest as load_from

__all__ = ["Manifest", "load_manifest"]


def load_manifest(name: str) -> Manifest:
    """Reads the manifest ``name`` ("ultravox_v0_5_llama_3_2_1b")."""
    return load_from(name, __name__)
