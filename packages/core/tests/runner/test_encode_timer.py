"""Encoders are timed by kind, an equal share for each item."""

from __future__ import annotations

import pytest
import torch

from sensorium.runner.encode_timer import EncodeTimer
from sensorium.types import EngineItem


def items(*kinds: str) -> list[EngineItem]:
    return [EngineItem(bytes([i]), kind, 1, 1, {}) for i, kind in enumerate(kinds)]


def test_each_item_is_counted_by_its_kind_and_failures_are_not() -> None:
    timer = EncodeTimer(torch.device("cpu"))
    with timer.measure(items("scent", "scent", "touch")):
        pass
    with pytest.raises(RuntimeError), timer.measure(items("scent")):
        raise RuntimeError
    found = timer.snapshot()
    assert {kind: histogram.count for kind, histogram in found.items()} == {"scent": 2, "touch": 1}
    assert found["scent"].total >= 0


@pytest.mark.gpu
def test_on_a_device_the_devices_time_is_meant() -> None:
    timer = EncodeTimer(torch.device("cuda"))
    large = torch.zeros(2**28, device="cuda")
    with timer.measure(items("scent")):
        for _ in range(50):
            large.add_(1)
    torch.cuda.synchronize()
    found = timer.snapshot()["scent"]
    assert found.count == 1
    assert found.total > 1e-3, "launching was measured, not computing"
