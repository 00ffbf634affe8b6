"""Runs side by side: their order, how far decoders may be ahead, and how they end.

Stand-in decoders meet for certain: they wait for events, and a test that hangs has found a fault.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import numpy as np
import pytest

from sensorium_media_video.side_by_side import (
    FRAMES_AHEAD,
    Found,
    RunDecoder,
    SideBySide,
    num_decoders,
)
from sensorium_media_video.timeline import Run

PATIENCE_S = 60.0


def runs_of(*counts: int) -> list[Run]:
    """Runs of a hundred packets each, of which so many frames are wanted."""
    return [
        Run(100 * number, 100 * number + 100, tuple(range(100 * number, 100 * number + count)))
        for number, count in enumerate(counts)
    ]


class Decoders:
    """Opens stand-in decoders, and counts what they do. Derive from it to change a frame's making.

    Attributes:
        num_made, most_held: frames; ``held`` counts those that nobody has taken yet.
        num_open, num_opened: decoders.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.num_made = self.num_taken = self.most_held = 0
        self.num_open = self.num_opened = 0

    @contextmanager
    def open(self, stopped: threading.Event) -> Iterator[RunDecoder]:
        with self._lock:
            self.num_open += 1
            self.num_opened += 1
        try:
            yield _Decoder(self, stopped)
        finally:
            with self._lock:
                self.num_open -= 1

    def make(self, index: int, stopped: threading.Event) -> Found:
        with self._lock:
            self.num_made += 1
            self.most_held = max(self.most_held, self.num_made - self.num_taken)
        return index, np.full((1, 1, 3), index % 256, dtype=np.uint8)

    def taken(self, decoders: SideBySide) -> Iterator[int]:
        """The indices, as frames are taken."""
        for index, frame in decoders.frames():
            assert frame[0, 0, 0] == index % 256
            with self._lock:
                self.num_taken += 1
            yield index


class _Decoder:
    def __init__(self, decoders: Decoders, stopped: threading.Event) -> None:
        self._decoders, self._stopped = decoders, stopped

    def frames(self, run: Run) -> Iterator[Found]:
        for index in run.wanted:
            yield self._decoders.make(index, self._stopped)


class BackToFront(Decoders):
    """The first run's frames can't be made before some frame of another run."""

    def __init__(self) -> None:
        super().__init__()
        self.is_later_made = threading.Event()

    def make(self, index: int, stopped: threading.Event) -> Found:
        if index < 100:
            assert self.is_later_made.wait(PATIENCE_S), "the runs are decoded one after another"
        else:
            self.is_later_made.set()
        return super().make(index, stopped)


class LastFirst(Decoders):
    """The first run's frames can't be made before the others fill all the room."""

    def __init__(self, num_before: int) -> None:
        super().__init__()
        self._missing = threading.Semaphore(0)
        self._num_before = num_before

    def make(self, index: int, stopped: threading.Event) -> Found:
        if index == 0:
            for _ in range(self._num_before):
                assert self._missing.acquire(timeout=PATIENCE_S)
        elif index >= 100:
            self._missing.release()
        return super().make(index, stopped)


def test_runs_are_decoded_at_once_and_given_out_in_order() -> None:
    runs = runs_of(1, 2, 1, 3)
    decoders = BackToFront()
    with closing(SideBySide(runs, decoders.open, 2)) as found:
        assert list(decoders.taken(found)) == [index for run in runs for index in run.wanted]
    assert decoders.num_open == 0


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_frames_wait_whatever_the_order(count: int) -> None:
    drawn = random.Random(count)
    for _ in range(20):
        runs = runs_of(*(drawn.randrange(1, 30) for _ in range(drawn.randrange(1, 12))))
        decoders = Decoders()
        with closing(SideBySide(runs, decoders.open, count)) as found:
            assert list(decoders.taken(found)) == [index for run in runs for index in run.wanted]
        # Those that wait, one of the run in turn, and one in each decoder's hands.
        assert decoders.most_held <= FRAMES_AHEAD * count + 1 + count
        assert decoders.num_open == 0


def test_a_full_room_does_not_keep_the_next_frame_out() -> None:
    """The second run fills the room and its decoder has one more in hand before the first run's
    first frame is made."""
    count = 2
    decoders = LastFirst(FRAMES_AHEAD * count + 1)
    runs = runs_of(9, 90)
    with closing(SideBySide(runs, decoders.open, count)) as found:
        assert list(decoders.taken(found)) == [*range(9), *range(100, 190)]
    assert decoders.most_held <= FRAMES_AHEAD * count + 1 + count


class Failing(Decoders):
    """The run at 100 can't be decoded."""

    def make(self, index: int, stopped: threading.Event) -> Found:
        if index == 100:
            raise OSError("damaged")
        return super().make(index, stopped)


def test_an_error_comes_in_its_run_and_ends_the_others() -> None:
    decoders = Failing()
    taken: list[int] = []
    opened = closing(SideBySide(runs_of(3, 1, 9, 9), decoders.open, 3))
    with opened as found, pytest.raises(OSError, match="damaged"):
        taken.extend(decoders.taken(found))
    assert taken == [0, 1, 2]
    assert decoders.num_open == 0
    assert not named_threads()


def test_what_opening_raises_is_raised() -> None:
    @contextmanager
    def broken(stopped: threading.Event) -> Iterator[RunDecoder]:
        raise OSError("can't be opened")
        yield

    opened = closing(SideBySide(runs_of(1, 1), broken, 2))
    with opened as found, pytest.raises(OSError, match="can't be opened"):
        list(found.frames())
    assert not named_threads()


class Endless(Decoders):
    """A run whose frame never comes: only the end of all ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_decoding = threading.Event()

    def make(self, index: int, stopped: threading.Event) -> Found:
        if index == 100:
            self.is_decoding.set()
            assert stopped.wait(PATIENCE_S)
        return super().make(index, stopped)


def test_closing_ends_decoders_in_the_middle_of_a_run() -> None:
    decoders = Endless()
    found = SideBySide(runs_of(1, 1, 1, 9, 9), decoders.open, 3)
    taken = decoders.taken(found)
    assert next(taken) == 0
    assert decoders.is_decoding.wait(PATIENCE_S)
    found.close()
    assert decoders.num_open == 0
    assert not named_threads()
    with pytest.raises(RuntimeError, match="closed"):
        next(taken)
    found.close()  # a second time


def test_threads_that_cannot_be_started_leave_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if named_threads():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    decoders = Endless()
    with pytest.raises(RuntimeError, match="can't start"):
        SideBySide(runs_of(1, 1), decoders.open, 2)
    assert not named_threads()
    assert decoders.num_open == 0


def named_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "sensorium-decoder"]


@pytest.mark.parametrize(
    ("counts", "num_threads", "expected"),
    [
        ((1,) * 16, 2, 2),
        ((3, 2, 2, 2, 2, 2, 2, 1), 2, 2),
        ((1, 1), 4, 2),
        ((1,), 4, 1),
        ((13, 13, 12, 13, 13), 2, 2),
        ((32, 32), 2, 2),
        ((32, 33), 2, 1),
        ((65, 63), 8, 1),
        ((64,) * 8, 4, 4),
    ],
)
def test_a_decoder_for_each_thread_where_frames_are_few(
    counts: Sequence[int], num_threads: int, expected: int
) -> None:
    assert num_decoders(runs_of(*counts), num_threads) == expected
