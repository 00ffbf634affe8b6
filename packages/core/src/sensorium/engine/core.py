"""The step loop: plan the next step, start it, take in the one before.

    scheduler   plan n │ plan n+1 │ take in n │ plan n+2 │ take in n+1 │ …
    device             │ ····· step n ·········│········ step n+1 ·····│ …

On an accelerator the next step is planned while the device still works on the one before it, so
that it never waits for the host. Where a step's outcome decides what may come next (an item was
encoded), and where the device is the CPU itself, each step is taken in at once.

Knows nothing of threads, prompts or text. One object, used from one thread.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol

import torch

from sensorium.errors import EngineError
from sensorium.runner import Runner
from sensorium.scheduler import Scheduler
from sensorium.types import Batch, RequestUpdate, StepOutput

logger = logging.getLogger("sensorium.engine")


class Launched(Protocol):
    """A step that was started."""

    def result(self) -> StepOutput:
        """What came of it, once it is done."""


class EngineCore:
    """One scheduler and one runner."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._depth = 1 if runner.overlaps else 0
        self._in_flight: deque[tuple[Batch, Launched]] = deque()

    def step(self) -> list[RequestUpdate]:
        """Plans and starts a step, and reports what became of the one before it.

        Raises:
            EngineError: the scheduler claims to have work but there is none in its batch and no
                news behind it; going on would spin for ever.
        """
        batch = self.scheduler.schedule()
        is_stuck = batch == Batch() and not self._in_flight
        self._in_flight.append((batch, self._launch(batch)))
        depth = 0 if batch.encode or not batch.chunks else self._depth
        updates: list[RequestUpdate] = []
        while len(self._in_flight) > depth:
            updates += self._take_in(*self._in_flight.popleft())
        if is_stuck and not updates:
            raise EngineError("The scheduler has work but scheduled none of it.")
        return updates

    def _launch(self, batch: Batch) -> Launched:
        try:
            return self.runner.launch(batch)
        except torch.AcceleratorError:
            raise  # the device answers nobody any more: neither may the engine
        except Exception as error:
            return _Failed(batch, error)

    def _take_in(self, batch: Batch, launched: Launched) -> list[RequestUpdate]:
        """Takes in a step; one that fails ends its own requests and no others."""
        try:
            output = launched.result()
        except torch.AcceleratorError:
            raise
        except Exception as error:
            output = _Failed(batch, error).result()
        return self.scheduler.process(batch, output)

    def close(self) -> None:
        """Gives back the device's memory."""
        self._in_flight.clear()
        self.runner.close()


class _Failed:
    """A step that could not be carried out."""

    def __init__(self, batch: Batch, error: Exception) -> None:
        logger.error("a step failed", exc_info=error)
        self._batch = batch
        self._sentence = f"The step that computed this request failed ({type(error).__name__})."

    def result(self) -> StepOutput:
        """All its requests failed."""
        return StepOutput(failed={c.request_id: self._sentence for c in self._batch.chunks})
