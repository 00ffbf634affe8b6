"""``watch_lag``: measures how late the event loop comes to what is due, for ``/metrics``."""

from __future__ import annotations

import asyncio
import time

from sensorium.stats import HistogramRecorder

_PERIOD_S = 0.05


async def watch_lag(recorder: HistogramRecorder, period_s: float = _PERIOD_S) -> None:
    """Sleeps again and again and records by how much each sleep was too long; until cancelled."""
    while True:
        due_s = time.monotonic() + period_s  # uvloop's own clock stands still within a turn
        await asyncio.sleep(period_s)
        recorder.add(max(0.0, time.monotonic() - due_s))
