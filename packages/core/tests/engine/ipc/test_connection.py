"""A connection: what is lost with one process, and what isn't."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from leftovers import num_mapped
from stand_in_runner import item, request

from sensorium.engine.ipc import connection as module
from sensorium.engine.ipc.connection import Connection
from sensorium.errors import EngineDeadError, LimitError
from sensorium.types import EngineRequest


@pytest.fixture
def packer() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def with_features(request_id: str, num_bytes: int = 100_000) -> EngineRequest:
    features = {"nose": {"smell": torch.zeros(num_bytes, dtype=torch.uint8)}}
    scent = replace(item(request_id.encode(), 1), features=features)
    return request(request_id, (1, 2), items=(scent,))


def test_failing_names_the_requests_that_are_lost(packer: ThreadPoolExecutor) -> None:
    connection = Connection(lambda: None, packer)
    assert not connection.was_used
    results = [connection.add(request(name, (1,))) for name in ("runs", "ended", "refused")]
    assert connection.was_used
    connection.resolve(2, None, ("LimitError", "too long", False))
    connection.forget(["ended"])
    assert connection.fail(EngineDeadError("it died")) == {"runs"}
    runs, _, refused = results
    assert runs is not None
    assert refused is not None
    assert isinstance(runs.exception(), EngineDeadError)
    assert isinstance(refused.exception(), LimitError)


@pytest.mark.parametrize("max_inline_bytes", [0, 2**21])
def test_what_comes_after_is_not_taken_and_leaves_nothing(
    packer: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, max_inline_bytes: int
) -> None:
    monkeypatch.setattr(module, "MAX_INLINE_BYTES", max_inline_bytes)
    mapped = num_mapped()
    connection = Connection(lambda: None, packer)
    assert connection.add(with_features("before")) is not None
    packer.submit(lambda: None).result()  # the packer has copied
    assert num_mapped() == mapped + 1
    connection.fail(EngineDeadError("it died"))
    assert connection.add(with_features("after")) is None
    assert connection.call("check_integrity") is None
    assert isinstance(connection.failure, EngineDeadError)
    packer.submit(lambda: None).result()
    assert connection.segments.num_bytes == (0, 0)
    assert num_mapped() == mapped


def test_features_on_their_way_when_it_fails_leave_nothing(packer: ThreadPoolExecutor) -> None:
    mapped = num_mapped()
    connection = Connection(lambda: None, packer)
    held = ThreadPoolExecutor(1)
    gate = held.submit(lambda: connection.fail(EngineDeadError("it died")))
    gate.result()
    held.shutdown()
    # Whoever has passed the first check meets the closed pool.
    connection._pack_and_add(0, with_features("late"))
    assert connection.segments.num_bytes == (0, 0)
    assert num_mapped() == mapped
