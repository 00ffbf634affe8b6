"""Runs scripts in processes of their own that need not import torch: they are forked.

Python with torch and the packages takes seconds to start. Here one process imports them and
forks for each script; what a script sees is a fresh interpreter in which they are imported
already, and it ends as any process does, threads and ``atexit`` included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The process that is forked has one thread: locks of others would stay locked in its children.
HOST = """
import gc, json, os, runpy, sys, threading
import torch, PIL.Image, sensorium.llm, sensorium.engine.async_engine

gc.freeze()  # else a first collection in each child copies every page
print("ready", flush=True)
for line in sys.stdin:
    arguments, environment, stdout, stderr = json.loads(line)
    assert threading.active_count() == 1
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for number, name in enumerate([os.devnull, stdout, stderr]):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = open(os.devnull)
    sys.argv = arguments
    paths = filter(None, environment["PYTHONPATH"].split(os.pathsep))
    sys.path[:1] = [os.path.dirname(arguments[0]), *paths]
    runpy.run_path(arguments[0], run_name="__main__")
    break
"""


@dataclass
class WarmPython:
    """The process that forks, and a folder for what the scripts write."""

    process: subprocess.Popen[str]
    folder: Path

    def run(
        self, script: Path, *arguments: str, paths: Sequence[Path] = ()
    ) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run([sys.executable, script, *arguments])`` with captured text.

        Args:
            paths: where the script finds modules before anywhere else.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        outputs = [self.folder / "stdout", self.folder / "stderr"]
        for file in outputs:
            file.unlink(missing_ok=True)
        command = [str(script), *arguments]
        found = [*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(found)}
        self.process.stdin.write(json.dumps([command, environment, *map(str, outputs)]) + "\n")
        self.process.stdin.flush()
        status = self.process.stdout.readline()
        assert status, "the process that forks has died"
        texts = [file.read_text() for file in outputs]
        return subprocess.CompletedProcess(command, int(status), *texts)


@contextmanager
def warm_python(folder: Path) -> Iterator[WarmPython]:
    """Starts it; it ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield WarmPython(process, folder)
    finally:
        process.kill()
        process.communicate()
