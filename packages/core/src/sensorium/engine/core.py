"""``EngineCore``: one step: plan the next step, launch it, take in the step before, sample.

    scheduler   plan n+1 │ launch n+1 │ take in n │ masks │ sample n+1 │ plan n+2 │ …
    device      ········ step n ······│·········· step n+1 ············│···········

On an accelerator the next step is planned and launched while the device still works on the step
before it, so that the device never waits for the host. A step without masks is sampled as soon as
it is launched; masks are made from the tokens that have just arrived, while the device computes the
rows that they are for. Where the device is the CPU itself, each step is taken in at once.

Knows nothing of threads, prompts or text. One object, used from one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import torch

from sensorium.engine.constraints import Constraints, Given, RequestGrammars, Row
from sensorium.engine.executor import Executor, Pending
from sensorium.errors import EngineError, Failure
from sensorium.scheduler import Scheduler
from sensorium.stats import Histogram
from sensorium.structured_outputs import StructuredOutputs
from sensorium.types import Batch, EngineRequest, RequestUpdate, StepOutput

logger = logging.getLogger("sensorium.engine")


class EngineCore:
    """One scheduler and one executor.

    Args:
        grammars: None: no request has a grammar.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, grammars: RequestGrammars | None = None
    ) -> None:
        info = executor.info
        self.scheduler = scheduler
        self.executor = executor
        self._grammars = grammars
        self._constraints = Constraints(info.vocab_size, grammars)
        self._overlaps = info.overlaps
        self._in_flight: tuple[Batch, list[Row], Pending] | None = None
        self._news: list[RequestUpdate] = []

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has anything to do."""
        return bool(self._news) or self.scheduler.has_work

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Future[None]:
        """As ``RequestGrammars.compile``; from any thread."""
        assert self._grammars is not None, "this engine was built without grammars"
        return self._grammars.compile(form, eos_ids)

    def add(self, request: EngineRequest) -> None:
        """Lets a request wait for its turn.

        Raises:
            SensoriumError: as ``Scheduler.add``, or its grammar can't be used.
        """
        self.scheduler.add(request)
        try:
            given = self._constraints.start(request)
        except BaseException:
            self.abort([request.request_id])
            raise
        self._give(given, self._news)

    def abort(self, request_ids: Iterable[str]) -> list[RequestUpdate]:
        """Ends requests in any state; unknown ids are ignored."""
        updates = self.scheduler.abort(request_ids)
        self._constraints.forget(update.request_id for update in updates)
        return updates

    def step(self) -> list[RequestUpdate]:
        """Plans and starts a step, and reports the results of the step before it.

        Raises:
            EngineError: the scheduler claims to have work but there is none in its batch and no
                news behind it; going on would spin for ever.
        """
        batch = self.scheduler.schedule()
        is_stuck = batch == Batch() and self._in_flight is None
        launched = self._launch(batch)
        rows = self._constraints.rows_of(batch)
        pending = None if rows else self._sample(batch, launched)
        updates, self._news = self._news + self._take_in(), []
        if pending is None:
            pending = self._sample_masked(batch, launched, rows, updates)
        self._in_flight = batch, rows, pending
        if not self._overlaps or not batch.chunks:
            updates += self._take_in()
        if is_stuck and not updates:
            raise EngineError("The scheduler has work but scheduled none of it.")
        return updates

    def _launch(self, batch: Batch) -> Any:
        try:
            return self.executor.launch(batch)
        except torch.AcceleratorError:
            raise  # the device has failed, so the engine must end
        except Exception as error:
            return _Failed(batch, error)

    def _sample(self, batch: Batch, launched: Any, *masks: Any) -> Pending:
        if isinstance(launched, _Failed):
            return launched
        try:
            return self.executor.sample(launched, *masks)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            return _Failed(batch, error)

    def _sample_masked(
        self, batch: Batch, launched: Any, rows: list[Row], updates: list[RequestUpdate]
    ) -> Pending:
        """Samples a step some of whose rows need masks; ends requests that can have none."""
        masks, failed = self._constraints.masks(rows)
        self._fail(failed, updates)
        return self._sample(batch, launched, masks)

    def _take_in(self) -> list[RequestUpdate]:
        """Takes in the step that is running; one that fails ends its own requests and no others."""
        if self._in_flight is None:
            return []
        (batch, rows, pending), self._in_flight = self._in_flight, None
        try:
            output = pending.result()
        except torch.AcceleratorError:
            raise
        except Exception as error:
            output = _Failed(batch, error).result()
        updates = self.scheduler.process(batch, output)
        self._forget_ended(updates)
        self._give(self._constraints.accept(rows, output), updates)
        return updates

    def _give(self, given: Given, updates: list[RequestUpdate]) -> None:
        """Gives the scheduler the tokens and ends that follow from grammars."""
        for request_id in {**given.tokens, **dict.fromkeys(given.complete)}:
            token_ids = given.tokens.get(request_id, ())
            is_end = request_id in given.complete
            news = self.scheduler.give(request_id, token_ids, is_end=is_end)
            self._forget_ended(news)
            updates += news
        self._fail(given.failed, updates)

    def _fail(self, failed: Mapping[str, Failure], updates: list[RequestUpdate]) -> None:
        for request_id, failure in failed.items():
            updates += self.scheduler.fail(request_id, failure)
        self._constraints.forget(failed)

    def _forget_ended(self, updates: Iterable[RequestUpdate]) -> None:
        self._constraints.forget(u.request_id for u in updates if u.finish_reason is not None)

    def encode_times(self) -> Mapping[str, Histogram]:
        """Kind → how long encoding an item took."""
        return self.executor.encode_times()

    def close(self) -> None:
        """Gives back the device's memory."""
        self._in_flight = None
        if self._grammars is not None:
            self._grammars.close()
        self.executor.close()


class _Failed:
    """A step that could not be carried out."""

    def __init__(self, batch: Batch, error: Exception) -> None:
        logger.error("a step failed", exc_info=error)
        self._batch = batch
        self._sentence = f"The step that computed this request failed ({type(error).__name__})."

    def result(self) -> StepOutput:
        """All its requests failed."""
        asked = [chunk.request_id for chunk in self._batch.chunks]
        asked += [task.request_id for task in self._batch.encode]
        return StepOutput(failed=dict.fromkeys(asked, self._sentence))
