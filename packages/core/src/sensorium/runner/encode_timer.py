"""``EncodeTimer``: how long encoders take, by kind, without waiting for a device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from sensorium.stats import Histogram, HistogramRecorder
from sensorium.types import EngineItem


class EncodeTimer:
    """Used from one thread.

    On an accelerator two events are recorded around an encoder's work, and read at the next
    snapshot or encoding after the device has passed them.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._recorders: dict[str, HistogramRecorder] = {}
        self._running: deque[tuple[tuple[str, ...], torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def measure(self, items: Sequence[EngineItem]) -> Iterator[None]:
        """Measures what is done within, an equal share for each item; not if it raises."""
        kinds = tuple(item.kind for item in items)
        if self._on_device:
            self._harvest()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            yield
            end.record()
            self._running.append((kinds, begin, end))
        else:
            begin_s = time.perf_counter()
            yield
            self._add(kinds, time.perf_counter() - begin_s)

    def snapshot(self) -> Mapping[str, Histogram]:
        """Seconds an item, by kind."""
        self._harvest()
        return {kind: recorder.snapshot() for kind, recorder in self._recorders.items()}

    def _harvest(self) -> None:
        while self._running and self._running[0][2].query():  # type: ignore[no-untyped-call]
            kinds, begin, end = self._running.popleft()
            self._add(kinds, begin.elapsed_time(end) / 1e3)

    def _add(self, kinds: Sequence[str], seconds: float) -> None:
        for kind in kinds:
            self._recorders.setdefault(kind, HistogramRecorder()).add(seconds / len(kinds))
