"""The loop: an error that is no answer ends it."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest
from stand_in_runner import StandInRunner, request, scheduler_config

from sensorium.engine.client import ThreadClient
from sensorium.engine.core import EngineCore
from sensorium.engine.loop import Call, EngineLoop
from sensorium.errors import EngineDeadError, EngineError, LimitError
from sensorium.scheduler import Scheduler


def failing(error: Exception) -> Callable[[], Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


def idle_core() -> EngineCore:
    """A core with nothing to do."""
    return EngineCore(Scheduler(scheduler_config()), StandInRunner(scheduler_config()))


def run(*calls: Call) -> None:
    inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
    for call in (*calls, None):
        inbox.put(call)
    EngineLoop(idle_core(), inbox, lambda updates: None).run()


def test_an_answer_is_the_callers_alone() -> None:
    refused, served = Call(failing(LimitError("too long"))), Call(lambda: 5)
    unbalanced = Call(failing(AssertionError("pages")), Exception)
    run(refused, unbalanced, served)
    assert isinstance(refused.result.exception(), LimitError)
    assert isinstance(unbalanced.result.exception(), AssertionError)
    assert served.result.result() == 5


def test_any_other_error_ends_the_loop() -> None:
    broken, served = Call(failing(KeyError("pages"))), Call(lambda: 5)
    with pytest.raises(KeyError, match="pages"):
        run(broken, served)
    assert isinstance(broken.result.exception(), KeyError)
    assert not served.result.done()


def test_an_abort_that_fails_ends_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    """Half of what it was to give back may be left: nothing may go on with such books."""
    built = idle_core()
    built.scheduler.abort = failing(KeyError("a page"))  # type: ignore[method-assign]
    client = ThreadClient(lambda: (built, None))  # type: ignore[arg-type, return-value]
    client.wait_ready()
    ended: queue.SimpleQueue[tuple[EngineError, Any]] = queue.SimpleQueue()
    client.start(lambda updates: None, lambda *what: ended.put(what))
    assert client.is_healthy
    client.abort(["a"])
    error, ids = ended.get(timeout=60)
    assert isinstance(error, EngineDeadError)
    assert ids is None, "every request ends"
    assert "KeyError" in str(error)
    assert not client.is_healthy
    assert any(record.exc_info for record in caplog.records), "the log has the cause"
    with pytest.raises(EngineDeadError):
        client.add(request("b", (1, 2))).result(60)
    client.close()
