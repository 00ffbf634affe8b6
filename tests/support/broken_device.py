"""The engine's process with a device that breaks: ``process.MODULE`` names this file in its place.

While the file that ``SENSORIUM_TEST_BREAK`` names is there, a step fails as on a broken device,
which takes the file away: the next process works.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from sensorium.engine.ipc import worker
from sensorium.runner import Runner

if __name__ == "__main__":
    launch = Runner.launch
    marker = Path(os.environ["SENSORIUM_TEST_BREAK"])

    def launch_or_break(self: Runner, batch: Any) -> Any:
        """Breaks as a device does, once."""
        if marker.exists():
            marker.unlink()
            raise torch.AcceleratorError("the device is gone")
        return launch(self, batch)

    Runner.launch = launch_or_break  # type: ignore[method-assign]
    sys.exit(worker.main())
