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
        """Schedules what fits, runs it, and reports what became of it.

        Raises:
            EngineError: the scheduler claims to have work but there is none in its batch and no
                news behind it; going on would spin for ever.
        """
        batch = self.scheduler.schedule()
        output = self._run(batch)
        updates = self.scheduler.process(batch, output)
        if batch == Batch() and not updates:
            raise EngineError("The scheduler has work but scheduled none of it.")
        return updates

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
