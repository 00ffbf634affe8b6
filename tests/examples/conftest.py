"""Examples run as scripts do, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from warm_python import warm_python

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Modules in place of what needs more than tests have.
STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[str]]]:
    """(name of an example, *arguments) → the lines that it printed."""
    with warm_python(tmp_path_factory.mktemp("examples")) as python:

        def run(name: str, *arguments: str) -> list[str]:
            done = python.run(EXAMPLES / f"{name}.py", *arguments, paths=[STAND_INS])
            assert done.returncode == 0, done.stderr[-3000:]
            return [line for line in done.stdout.splitlines() if line.strip()]

        yield run
