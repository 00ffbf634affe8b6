"""Encoded pictures in every allowed format."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensorium.types import BytesSource, Loaded, Source, ValueSource
from sensorium_media_image.kind import ImageKind

Encode = Callable[..., bytes]


@pytest.fixture
def encode() -> Encode:
    """Encodes a Pillow image: ``encode(image, "PNG", **options)``."""

    def run(image: Image.Image, format: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, format=format, **options)
        return file.getvalue()

    return run


@pytest.fixture
def noise() -> Image.Image:
    """A small picture in which no two parts look alike."""
    rng = np.random.default_rng(3)
    return Image.fromarray(rng.integers(0, 256, (13, 17, 3), dtype=np.uint8))


@pytest.fixture
def load() -> Callable[..., np.ndarray[Any, Any]]:
    """Loads bytes or a value as the engine would: ``load(value, **io_options)``."""

    def run(value: Any, **options: Any) -> np.ndarray[Any, Any]:
        kind = ImageKind(options)
        source: Source = BytesSource(value) if isinstance(value, bytes) else ValueSource(value)
        probe = kind.probe([source])
        loaded: Loaded = kind.load([source])
        rgb: np.ndarray[Any, Any] = loaded.value
        assert rgb.dtype == np.uint8
        assert rgb.flags.c_contiguous
        assert rgb.flags.writeable
        assert (*loaded.shape.size, 3) == rgb.shape
        assert probe.shape == loaded.shape
        assert probe.decoded_bytes >= rgb.nbytes
        return rgb

    return run
