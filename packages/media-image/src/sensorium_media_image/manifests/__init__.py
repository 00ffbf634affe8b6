"""What published checkpoints of this package's families hold: names, shapes, configs, sources.

The form is core's (``sensorium.models.manifests``); nothing at run time reads these.
"""

from __future__ import annotations

from sensorium.models.manifests import Manifest
from sensorium.models.manifests import load_manifest as load_from

__all__ = ["Manifest", "load_manifest"]


def load_manifest(name: str) -> Manifest:
    """Reads the manifest ``name`` ("llava_1_5_7b", "qwen2_5_vl_3b")."""
    return load_from(name, __name__)
