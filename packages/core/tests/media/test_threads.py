"""Threads that prepare media compute alone, and leave other threads' teams as they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from sensorium.media.threads import lone_workers


@pytest.fixture
def three_threads() -> Iterator[None]:
    """What an application may have asked of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_only_the_workers_are_alone() -> None:
    meet = threading.Barrier(2, timeout=100)

    def count() -> tuple[str, int]:
        meet.wait()  # so that both threads work
        return threading.current_thread().name, torch.get_num_threads()

    with lone_workers(2, "worker") as pool:
        found = dict(future.result() for future in [pool.submit(count) for _ in range(2)])
    assert found == {"worker_0": 1, "worker_1": 1}
    assert torch.get_num_threads() == 3
    others: list[int] = []
    other = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert others == [3]
