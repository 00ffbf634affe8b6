"""``EngineLoop``: alternates between the calls that have come in and the engine's steps.

    take calls ─ step ─ report ─ take calls ─ …      waits only where there is nothing to run

It runs where its owner calls ``run``: in a thread of this process, or in the engine's own process.
It doesn't know where calls come from or where updates go.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from sensorium.engine.core import EngineCore
from sensorium.engine.recorder import Recorder
from sensorium.errors import SensoriumError
from sensorium.stats import CoreStats
from sensorium.types import RequestUpdate


@dataclass(frozen=True, slots=True)
class Call:
    """A function to call between two steps; the future gets its result.

    Attributes:
        expected: errors that only refuse the call. After any other error the engine's state can't
            be trusted: the caller gets the error, and the loop ends with it.
    """

    function: Callable[[], Any]
    expected: type[Exception] = SensoriumError
    result: Future[Any] = field(default_factory=Future)

    def carry_out(self) -> None:
        """Calls the function, unless the caller has cancelled it meanwhile.

        Raises:
            Exception: the function failed with an error that isn't in ``expected``.
        """
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            self.result.set_result(self.function())
        except Exception as error:
            self.result.set_exception(error)
            if not isinstance(error, self.expected):
                raise


class Inbox(Protocol):
    """Where calls come from."""

    def get(self, block: bool = True) -> Call | None:
        """The next call; None: the loop shall end.

        Raises:
            queue.Empty: there is none and ``block`` is False.
        """


class EngineLoop:
    """One core, driven from the thread that calls ``run``.

    Args:
        report: gets the updates of every step, and of every call, that has some.
    """

    def __init__(
        self,
        core: EngineCore,
        inbox: Inbox,
        report: Callable[[Sequence[RequestUpdate]], None],
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._report = report
        self._recorder = Recorder()

    def run(self) -> None:
        """Steps until the inbox says that it shall end.

        Raises:
            Exception: whatever a step raises, or a call that shouldn't; the core can't be used
                any more.
        """
        while self._take_calls():
            begin_s = time.perf_counter()
            updates = self._core.step()
            self._recorder.took_step(time.perf_counter() - begin_s)
            self.report(updates)

    def report(self, updates: Sequence[RequestUpdate]) -> None:
        """Reports updates; for calls that produce some."""
        if updates:
            self._recorder.saw(updates)
            self._report(updates)

    def stats(self) -> CoreStats:
        """The counts so far; for a call."""
        return self._recorder.snapshot(self._core.scheduler.stats, self._core.encode_times())

    def _take_calls(self) -> bool:
        """Carries out what was asked for since the last step; False once the loop shall end."""
        while True:
            try:
                call = self._inbox.get(block=not self._core.has_work)
            except queue.Empty:
                return True
            if call is None:
                return False
            call.carry_out()
