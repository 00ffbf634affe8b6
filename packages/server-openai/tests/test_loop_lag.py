"""The event loop's lag is what somebody who blocks the loop makes everybody else wait."""

from __future__ import annotations

import asyncio
import time

from sensorium.stats import HistogramRecorder
from sensorium_server_openai.loop_lag import watch_lag
from sensorium_server_openai.metrics import Metrics


async def test_a_blocked_loop_is_seen() -> None:
    recorder = HistogramRecorder((0.1,))
    task = asyncio.create_task(watch_lag(recorder, 0.001))
    await asyncio.sleep(0)
    time.sleep(0.3)
    while not recorder.snapshot().counts[1]:
        await asyncio.sleep(0)
    task.cancel()
    assert recorder.snapshot().total >= 0.25


def test_it_is_among_the_figures() -> None:
    metrics = Metrics("m")
    metrics.histograms["event_loop_lag_seconds"].add(0.03)
    line = 'sensorium:event_loop_lag_seconds_bucket{le="0.03",model_name="m"} 1.0'
    assert line in metrics.text(None).decode()
