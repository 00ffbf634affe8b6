"""Batches of rows, and the worker processes that draw them; what the rows show is not known here.

Questions with one item and questions with two form two groups, each padded on the right to one
length. Workers write media into shared anonymous memory; only the small arrays go through a queue.
"""

from __future__ import annotations

import mmap
import multiprocessing
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -100


@dataclass(slots=True)
class Group:
    """Rows of one padded length, with what the forward pass needs to know of them.

    ids (n, length); positions (3, n, length); slots: where the items' tokens stand in the
    flattened ids, in the items' order; places and labels: where an answer token is predicted, and
    which one (`IGNORED` in spare room); num_items: how many items the rows show.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    num_items: int


@dataclass(slots=True)
class Batch:
    """Groups, and the media of all their rows in order: one array, the items along its first axis.

    media: pictures (n, height, width, 3) uint8, dry sounds (n, samples) int16, or spectrograms
    (n, frames, bins) float16.
    """

    groups: list[Group]
    media: NDArray[Any]


@dataclass(slots=True)
class Row:
    """One question: token ids, the last `num_answer` of them the answer; positions (3, length)."""

    ids: list[int]
    num_answer: int
    positions: NDArray[np.int64]


def group(
    rows: list[Row], item_id: int, num_items: int, length: int = 0, num_answers: int = 0
) -> Group:
    """Pad rows on the right, to `length` tokens each and `num_answers` answer tokens in all.

    Training gives both, so that every batch of one size of media has the same shapes.
    """
    length = length or max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    positions = np.zeros((3, len(rows), length), dtype=np.int64)
    places: list[int] = []
    labels: list[int] = []
    for i, row in enumerate(rows):
        end = len(row.ids)
        ids[i, :end] = row.ids
        positions[:, i, :end] = row.positions
        places += range(i * length + end - row.num_answer - 1, i * length + end - 1)
        labels += row.ids[end - row.num_answer :]
    spare = max(0, num_answers - len(places))
    places += range(spare)
    labels += [IGNORED] * spare
    keep = num_answers or len(places)
    slots = (ids.reshape(-1) == item_id).nonzero()[0]
    return Group(ids, positions, slots, np.array(places[:keep]), np.array(labels[:keep]), num_items)


#: Draws batches for ever: (random numbers, where a batch's media go) → its groups and the media's
#: shape, which lie at the beginning of that array.
Draw = Callable[[random.Random, NDArray[Any]], Batch]


def _work(
    draw: Draw, seed: str, slots: list[mmap.mmap], dtype: Any, free: Any, ready: Any, worker: int
) -> None:
    rng = random.Random(f"training/{seed}/{worker}")
    while True:
        slot = free.get()
        if slot is None:
            return
        batch = draw(rng, np.frombuffer(slots[slot], dtype=dtype))
        ready.put((worker, slot, batch.media.shape, batch.groups))


class Drawers:
    """Worker processes that keep batches ready; start them before the device is touched.

    Args:
        draw: draws one batch into the memory it is given.
        num_workers: processes.
        seed: each worker's random numbers follow from it.
        room: numbers that a batch's media have at most.
        dtype: of the media.
        slots_each: batches that a worker may have ready.
    """

    def __init__(
        self,
        draw: Draw,
        num_workers: int,
        seed: str,
        room: int,
        dtype: Any = np.uint8,
        slots_each: int = 2,
    ) -> None:
        context = multiprocessing.get_context("fork")
        self._dtype = np.dtype(dtype)
        num_bytes = room * self._dtype.itemsize
        self._ready = context.Queue()
        self._free = [context.Queue() for _ in range(num_workers)]
        self._slots = [
            [mmap.mmap(-1, num_bytes) for _ in range(slots_each)] for _ in range(num_workers)
        ]
        self._processes = [
            context.Process(
                target=_work,
                args=(draw, seed, self._slots[i], self._dtype, self._free[i], self._ready, i),
                daemon=True,
            )
            for i in range(num_workers)
        ]
        for i, process in enumerate(self._processes):
            for slot in range(slots_each):
                self._free[i].put(slot)
            process.start()

    def __iter__(self) -> Iterator[Batch]:
        """Batches whose media are valid until the next one is asked for."""
        while True:
            worker, slot, shape, groups = self._ready.get()
            flat = np.frombuffer(self._slots[worker][slot], dtype=self._dtype)
            yield Batch(groups, flat[: int(np.prod(shape))].reshape(shape))
            self._free[worker].put(slot)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
