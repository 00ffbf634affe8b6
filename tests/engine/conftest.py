"""One small text model for all tests of the engine's behaviour."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from endless import ROOM
from tiny_checkpoints import make_qwen2
from warm_python import WarmPopen, forked_engines

from sensorium import LLM


@pytest.fixture(scope="package", autouse=True)
def engines_are_forked(popen: type[WarmPopen]) -> Iterator[None]:
    """Engines' processes start without importing torch; those that scripts start do import it."""
    if torch.cuda.is_available():  # where the real command is what matters
        yield
        return
    with forked_engines(popen):
        yield


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random tiny Qwen2."""
    return make_qwen2(tmp_path_factory.mktemp("qwen2"), seed=0)


@pytest.fixture(scope="module")
def llm(text_model: Path) -> Iterator[LLM]:
    """A running engine whose books must balance when its tests have ended."""
    # In a thread wherever it runs: some tests reach into it.
    with LLM(text_model, dtype="float32", engine_process=False, **ROOM) as engine:
        yield engine
        engine.check_integrity()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler, also where the shell that started the tests had them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
