"""Segments: what is written on one side is read on the other, used again, and given back."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from leftovers import num_mapped

from sensorium.engine.ipc.messages import Placement
from sensorium.engine.ipc.packing import layout
from sensorium.engine.ipc.segments import SegmentPool, SegmentTable, size_class
from sensorium.errors import EngineError


class Two:
    """A pool and a table with nothing between them."""

    def __init__(self, **options: Any) -> None:
        self.table = SegmentTable(pin=False)
        self.num_announced = 0
        self.dropped: list[int] = []
        self.pool = SegmentPool(self._announce, self._drop, **options)

    def _announce(self, number: int, size: int, descriptor: int) -> None:
        self.num_announced += 1
        self.table.open(number, size, descriptor)

    def _drop(self, numbers: list[int]) -> None:
        self.dropped += numbers
        self.table.drop(numbers)


def features(seed: int, num_bytes: int = 100_000) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (num_bytes,), generator=generator, dtype=torch.uint8)
    return {"nose": {"smell": data, "grid": torch.tensor([1, seed])}, "tongue": {}}


def assert_same(left: Any, right: Any) -> None:
    assert list(left) == list(right)
    for encoder, tensors in right.items():
        assert list(left[encoder]) == list(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(left[encoder][name], tensor)


def test_features_are_read_as_they_were_written_and_segments_used_again() -> None:
    two, before = Two(), len(os.listdir("/proc/self/fd"))
    for seed in range(10):
        placement = two.pool.place(b"%d" % seed, features(seed))
        assert_same(two.table.features(placement), features(seed))
        two.pool.release([placement.segment or 0])
    assert two.num_announced == 1
    assert len(os.listdir("/proc/self/fd")) == before, "a mapping needs no descriptor"


def test_one_item_of_several_requests_is_written_once() -> None:
    two = Two()
    first, second = (two.pool.place(b"key", features(1)) for _ in range(2))
    assert first == second
    assert first.segment is not None
    two.pool.release([first.segment])
    other = two.pool.place(b"other", features(2))
    assert other.segment != first.segment, "the second request still needs it"
    assert_same(two.table.features(second), features(1))
    two.pool.release([first.segment])
    assert two.pool.place(b"third", features(3)).segment == first.segment


def test_idle_segments_are_given_back_beyond_the_bound() -> None:
    mapped = num_mapped()
    two = Two(max_idle_bytes=250_000)
    placements = [two.pool.place(b"%d" % i, features(i)) for i in range(4)]
    assert num_mapped() == mapped + 8
    two.pool.release(p.segment for p in placements if p.segment is not None)
    assert two.dropped == [0, 1], "the longest unused first"
    assert two.pool.num_bytes == (0, 2 * size_class(100_000 + 80))
    assert num_mapped() == mapped + 4
    two.pool.close()
    two.table.drop(range(4))
    assert num_mapped() == mapped


def test_views_outlive_their_segment() -> None:
    two = Two(max_idle_bytes=0)
    placement = two.pool.place(b"key", features(1))
    view = two.table.features(placement)
    two.pool.release([0])
    assert two.dropped == [0]
    assert_same(view, features(1))


def test_features_without_bytes_need_no_segment() -> None:
    two = Two()
    placement = two.pool.place(b"key", {"nose": {}, "tongue": {"none": torch.empty(0, 3)}})
    assert placement.segment is None
    assert two.table.features(placement)["tongue"]["none"].shape == (0, 3)


def test_size_classes() -> None:
    for num_bytes in [1, 2**16, 2**16 + 1, 5_000_000, 2**23, 2**23 + 1]:
        size = size_class(num_bytes)
        assert num_bytes <= size <= max(2**16, 1.25 * num_bytes)
    assert len({size_class(n) for n in range(2**20 + 1, 2**21 + 1, 997)}) == 4


def test_what_does_not_fit_is_refused() -> None:
    two = Two()
    placement = two.pool.place(b"key", features(1))
    with pytest.raises(EngineError, match="isn't there"):
        two.table.features(Placement(7, placement.header))
    large = layout(features(1, 10_000_000)).to_bytes()
    with pytest.raises(EngineError, match="isn't there"):
        two.table.features(Placement(0, large))
    with pytest.raises(EngineError, match="can't be read"):
        two.table.features(Placement(0, b"nonsense"))
    small = os.memfd_create("small")
    with pytest.raises(EngineError, match="size"):
        two.table.open(9, 2**20, small)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(small)
    with pytest.raises(EngineError):
        two.pool.place(b"bad", {"nose": {"smell": "text"}})  # type: ignore[dict-item]
    assert two.pool.num_bytes[0] == size_class(100_000 + 80), "the bad one holds nothing"
