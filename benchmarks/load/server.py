"""``running``: ``sensorium serve`` in a process of its own, and what that process has spent."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

_TICKS = os.sysconf("SC_CLK_TCK")
_BUCKET = re.compile(r'sensorium:(\w+)_bucket\{le="([^"]+)",.*\} (\S+)')


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        pid: of the process that answers; the engine has its own.
    """

    url: str
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds of the answering process so far, the engine's not counted."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def buckets(self, name: str) -> dict[float, float]:
        """A histogram of ``/metrics`` as it stands: upper edge → values up to it."""
        text = httpx2.get(self.url + "/metrics", timeout=60).text
        found = (match.groups() for match in _BUCKET.finditer(text))
        return {float(edge): float(count) for which, edge, count in found if which == name}


def quantile_edge(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """The upper edge of the bucket that holds this quantile of what came in between."""
    new = {edge: count - before.get(edge, 0.0) for edge, count in after.items()}
    wanted = share * new[float("inf")]
    return next(edge for edge, count in sorted(new.items()) if count >= wanted)


@contextlib.contextmanager
def running(model: str, flags: Sequence[str]) -> Iterator[Server]:
    """Serves the model on a free port of loopback until the block ends."""
    command = [sys.executable, "-m", "sensorium", "serve", model, "--port", "0"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    try:
        url = ""
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"address: +(\S+)", line):
                url = found[1]
                break
        if not url:
            raise SystemExit("the server doesn't start:\n" + "".join(said))
        # Nobody may be stopped by a full pipe.
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        reader.start()
        yield Server(url, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
