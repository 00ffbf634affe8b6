"""A server whose engine says "Hello there.", for tests that don't look at the engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted_engine import ScriptedEngine
from served import Served, served


@pytest.fixture(scope="package")
def plain() -> Iterator[Served]:
    """One for all."""
    with served(ScriptedEngine()) as server:
        yield server
