"""Clips of noise, for tests of what models make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from family_helpers import random_image

from sensorium.types import Loaded
from sensorium_media_video.kind import VideoKind

Frames = np.ndarray[Any, np.dtype[np.uint8]]


def random_clip(num_frames: int, height: int, width: int, seed: int) -> Frames:
    """(num_frames, height, width, 3): a picture on which noise falls anew in each frame."""
    still = random_image(height, width, seed)
    noise = np.random.default_rng(seed).integers(0, 90, (num_frames, height, width, 3))
    return np.clip(still // 2 + noise, 0, 255).astype(np.uint8)


def opened(value: Any, options: dict[str, Any] | None = None) -> Loaded:
    """A clip as the kind hands it to an adapter."""
    kind = VideoKind(options or {})
    (item,) = kind.split(value)
    return kind.load(item.sources)
