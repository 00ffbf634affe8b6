"""Shared memory for features: ``SegmentPool`` (frontend) and ``SegmentTable`` (engine).

    frontend   SegmentPool:  place ─ write once ─→  memfd  ←─ read, pinned ─  SegmentTable  engine
                   ↑─────────── released, when no request needs it any more ───────┘

A segment is a memfd: it has no name that another process could open, counts against no
``/dev/shm``, and is gone with the last process that maps it. It is mapped (and, for an accelerator,
pinned) once and then reused for features that fit its size.

This file knows neither sockets nor requests: the owner of the pool sends what the pool announces.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sensorium.engine.ipc.messages import Placement
from sensorium.engine.ipc.packing import PackedHeader, layout, unpack, write
from sensorium.errors import EngineError
from sensorium.types import Features

logger = logging.getLogger("sensorium.engine")

_MIN_BYTES = 2**16
#: Total bytes of unused segments, above which those unused longest are freed.
MAX_IDLE_BYTES = 2**30


def size_class(num_bytes: int) -> int:
    """The size of a segment for so many bytes: four classes an octave, a quarter more at most."""
    if num_bytes <= _MIN_BYTES:
        return _MIN_BYTES
    step = 1 << ((num_bytes - 1).bit_length() - 3)
    return -(-num_bytes // step) * step


@dataclass(slots=True)
class _Segment:
    """One segment on the frontend's side.

    Attributes:
        key: the item whose features it holds.
        num_users: requests that may still need them.
    """

    number: int
    size: int
    memory: Tensor
    key: bytes
    num_users: int = 1
    header: bytes = b""


class SegmentPool:
    """The frontend's side, used from any thread.

    Args:
        announce: (number, size, descriptor) of each new segment; it closes the descriptor.
        drop: the numbers of segments that are given back.
        max_idle_bytes: as ``MAX_IDLE_BYTES``.
    """

    def __init__(
        self,
        announce: Callable[[int, int, int], None],
        drop: Callable[[list[int]], None],
        max_idle_bytes: int = MAX_IDLE_BYTES,
    ) -> None:
        self._announce = announce
        self._drop = drop
        self._max_idle_bytes = max_idle_bytes
        self._lock = threading.Lock()
        self._used: dict[int, _Segment] = {}
        self._by_key: dict[bytes, _Segment] = {}
        self._idle: OrderedDict[int, _Segment] = OrderedDict()
        self._num_made = 0
        self._is_closed = False

    @property
    def num_bytes(self) -> tuple[int, int]:
        """Of the segments in use, and of those that wait to be used again."""
        with self._lock:
            used, idle = self._used.values(), self._idle.values()
            return sum(s.size for s in used), sum(s.size for s in idle)

    def place(self, key: bytes, features: Mapping[str, Features]) -> Placement:
        """Copies an item's features into a segment; one that holds them already gets a user more.

        Two threads that place the same item at once may each fill a segment with it.

        Raises:
            EngineError: features that can't be packed, no memory for them, or the pool is closed.
        """
        with self._lock:
            held = self._by_key.get(key)
            if held is not None:
                held.num_users += 1
                return Placement(held.number, held.header)
        packed = layout(features)
        if not packed.num_bytes:
            return Placement(None, packed.to_bytes())
        segment = self._take(size_class(packed.num_bytes), key)
        segment.header = packed.to_bytes()
        try:
            write(features, packed, segment.memory[: packed.num_bytes])
        except BaseException:
            self.release([segment.number])
            raise
        with self._lock:
            if segment.number in self._used:
                self._by_key[key] = segment
        return Placement(segment.number, segment.header)

    def release(self, numbers: Iterable[int]) -> None:
        """Takes one user from each segment; one without users is used again, or given back."""
        given_back = []
        with self._lock:
            for number in numbers:
                segment = self._used.get(number)
                if segment is None:
                    continue
                segment.num_users -= 1
                if segment.num_users:
                    continue
                del self._used[number]
                self._by_key.pop(segment.key, None)
                self._idle[number] = segment
            idle_bytes = sum(segment.size for segment in self._idle.values())
            while idle_bytes > self._max_idle_bytes:
                number, segment = self._idle.popitem(last=False)
                idle_bytes -= segment.size
                given_back.append(number)
        if given_back:
            self._drop(given_back)

    def close(self) -> None:
        """Unmaps everything once no thread writes to it any more; nothing is placed again."""
        with self._lock:
            self._is_closed = True
            self._used.clear()
            self._by_key.clear()
            self._idle.clear()

    def _take(self, size: int, key: bytes) -> _Segment:
        """An idle segment of this size, the last used first, or a new one."""
        with self._lock:
            self._check_open()
            for number in reversed(self._idle):
                segment = self._idle[number]
                if segment.size == size:
                    del self._idle[number]
                    segment.key, segment.num_users = key, 1
                    self._used[number] = segment
                    return segment
            number = self._num_made
            self._num_made += 1
        memory, descriptor = _new_memory(size)
        segment = _Segment(number, size, memory, key)
        with self._lock:
            try:
                self._check_open()
            except EngineError:
                os.close(descriptor)
                raise
            self._used[number] = segment
        self._announce(number, size, descriptor)
        return segment

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineError("The engine's process, which was to read features, has ended.")


class SegmentTable:
    """The engine's side, used from one thread.

    Args:
        pin: make segments fit for copies to the device that run beside its computing.
    """

    def __init__(self, *, pin: bool) -> None:
        self._pin = pin
        self._memories: dict[int, Tensor] = {}
        self._pinned: set[int] = set()

    def open(self, number: int, size: int, descriptor: int) -> None:
        """Maps a new segment; the descriptor is closed.

        Raises:
            EngineError: it isn't what the frontend says.
        """
        try:
            if number in self._memories or os.fstat(descriptor).st_size != size:
                raise EngineError("A segment of features isn't of the size that was announced.")
            self._memories[number] = _mapped(descriptor, size)
        finally:
            os.close(descriptor)
        if self._pin and _register(self._memories[number]):
            self._pinned.add(number)

    def features(self, placement: Placement) -> Mapping[str, Features]:
        """The features there, as views that keep the memory mapped.

        Raises:
            EngineError: there is no such segment, or its header doesn't fit it.
        """
        packed = PackedHeader.from_bytes(placement.header)
        if placement.segment is None:
            return unpack(packed, torch.empty(0, dtype=torch.uint8))
        memory = self._memories.get(placement.segment)
        if memory is None or packed.num_bytes > len(memory):
            raise EngineError("Features lie in a segment that isn't there.")
        return unpack(packed, memory[: packed.num_bytes])

    def drop(self, numbers: Iterable[int]) -> None:
        """Unmaps segments, as soon as no view is left."""
        for number in numbers:
            memory = self._memories.pop(number, None)
            if memory is not None and number in self._pinned:
                self._pinned.discard(number)
                _cudart().cudaHostUnregister(memory.data_ptr())


def _new_memory(size: int) -> tuple[Tensor, int]:
    """Memory of a new memfd, and its descriptor.

    Raises:
        EngineError: there is none to be had.
    """
    try:
        descriptor = os.memfd_create("sensorium", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            # The size is sealed: if the file could shrink, reading the mapping would kill the
            # process.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            return _mapped(descriptor, size), descriptor
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, RuntimeError) as error:
        raise EngineError(f"There is no memory for {size} bytes of features.") from error


def _mapped(descriptor: int, size: int) -> Tensor:
    # Opened by its number, the mapping keeps no descriptor; Python's mmap would keep one each.
    path = f"/proc/self/fd/{descriptor}"
    return torch.from_file(path, shared=True, size=size, dtype=torch.uint8)


def _cudart() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _register(memory: Tensor) -> bool:
    """Pins mapped memory; False, once said, where the driver won't: copies then wait for it."""
    result = _cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
    if int(result) == 0:
        return True
    logger.warning("%d bytes of features can't be pinned (CUDA error %d)", len(memory), int(result))
    with suppress(RuntimeError):  # a refused call leaves its error for the next launch to find
        torch.zeros(1, device="cuda")
    return False
