"""Requests that meet in the engine for certain, however fast it is and slow what prepares them."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from sensorium import LLM
from sensorium.engine.client import ThreadClient
from sensorium.types import EngineRequest

#: Longer than any test's prompts are in preparation.
_PATIENCE_S = 100.0


def let_requests_meet(llm: LLM, num_requests: int) -> None:
    """The engine, in a thread, plans its next step when so many more requests have come."""
    client = llm._engine._client
    assert isinstance(client, ThreadClient)
    add, come = client.add, threading.Semaphore(0)

    def counted(request: EngineRequest) -> Future[None]:
        future = add(request)
        come.release()
        return future

    def wait() -> None:
        for _ in range(num_requests):
            come.acquire(timeout=_PATIENCE_S)
        client.add = add  # type: ignore[method-assign]

    client.add = counted  # type: ignore[method-assign]
    client._call(wait)
