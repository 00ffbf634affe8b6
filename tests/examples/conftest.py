"""Examples run as scripts do, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from warm_python import WarmPopen

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Modules in place of what needs more than tests have.
STAND_INS = Path(__file__).parent / "stand_ins"


@pytest.fixture(scope="session")
def run(popen: type[WarmPopen]) -> Callable[..., list[str]]:
    """(name of an example, *arguments) → the lines that it printed."""

    def run(name: str, *arguments: str) -> list[str]:
        paths = [str(STAND_INS), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = popen(
            [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr[-3000:]
        return [line for line in stdout.splitlines() if line.strip()]

    return run
