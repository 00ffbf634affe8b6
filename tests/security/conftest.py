"""A random tiny model with eyes, for the threats that need a whole engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, served
from tiny_checkpoints import make_qwen25vl

from sensorium import LLM, AsyncEngine
from sensorium_server_openai.engine_port import EnginePort


@pytest.fixture(scope="session")
def vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random tiny Qwen2.5-VL."""
    return make_qwen25vl(tmp_path_factory.mktemp("qwen25vl"), seed=1)


@pytest.fixture(scope="session")
def llm(vl_folder: Path) -> Iterator[LLM]:
    """A running engine whose books must balance when its tests have ended."""
    with LLM(vl_folder, dtype="float32", max_model_len=1024) as engine:
        yield engine
        engine.check_integrity()


@pytest.fixture(scope="session")
def http(vl_folder: Path) -> Iterator[Served]:
    """The same model over HTTP; its books must balance when its tests have ended."""
    with AsyncEngine(str(vl_folder), dtype="float32", max_model_len=1024) as engine:
        with served(EnginePort.of(engine, str(vl_folder))) as server:
            yield server
        asyncio.run(engine.check_integrity())
