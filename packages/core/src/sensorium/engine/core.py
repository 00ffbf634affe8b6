"""The step loop: schedule, run, process.

Knows nothing of threads, prompts or text. One object, used from one thread.
"""

from __future__ import annotations

import logging

from sensorium.errors import EngineError
from sensorium.runner import Runner
from sensorium.scheduler import Scheduler
from sensorium.types import Batch, RequestUpdate, StepOutput

logger = logging.getLogger("sensorium.engine")


class EngineCore:
    """One scheduler and one runner."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner

    def step(self) -> list[RequestUpdate]:
        """Schedules what fits, runs it, and reports what became of it."""
        batch = self.scheduler.schedule()
        if not (batch.chunks or batch.ended or batch.evict):
            # The loop only steps while there is work; going on would spin for ever.
            raise EngineError("The scheduler has work but scheduled none of it.")
        output = self._run(batch)
        return self.scheduler.process(batch, output)

    def _run(self, batch: Batch) -> StepOutput:
        """Runs a batch; a step that fails ends its own requests and no others."""
        try:
            return self.runner.step(batch)
        except Exception as error:  # whatever went wrong, the waiting requests go on
            logger.exception("a step failed")
            sentence = f"The step that computed this request failed ({type(error).__name__})."
            return StepOutput(failed={chunk.request_id: sentence for chunk in batch.chunks})

    def close(self) -> None:
        """Gives back the device's memory."""
        self.runner.close()
