"""A server of the embedded model in this process; all tests share its engine."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import pytest
from served import Served, served

from sensorium import AsyncEngine
from sensorium.assets.image import ImageAsset
from sensorium_server_openai.engine_port import EnginePort
from sensorium_tiny_models import model_path


@pytest.fixture(scope="session")
def engine() -> Iterator[AsyncEngine]:
    """tiny-vl, loaded once; its books must balance at the end."""
    with AsyncEngine(str(model_path()), max_model_len=2048) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def server(engine: AsyncEngine) -> Iterator[Served]:
    """A server of it that nobody configured."""
    with served(EnginePort.of(engine, str(model_path()))) as running:
        yield running


@pytest.fixture(scope="session")
def stop_sign() -> str:
    """A picture as a data URL."""
    buffer = io.BytesIO()
    ImageAsset("stop_sign").pil_image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
