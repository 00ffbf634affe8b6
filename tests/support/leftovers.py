"""What engines hold in this process, for tests that nothing of it is left."""

from __future__ import annotations

import threading
from pathlib import Path


def our_threads() -> list[str]:
    """Names of the running threads that engines have started."""
    return [t.name for t in threading.enumerate() if t.name.startswith("sensorium")]


def num_mapped() -> int:
    """Segments that are mapped, each side's mapping counted by itself."""
    return Path("/proc/self/maps").read_text().count("memfd:sensorium")
