"""``SideBySide``: a clip's runs, decoded by several threads and given out in order.

Runs don't depend on each other, so every thread has a decoder of its own. A decoder's own threads
help less: where frames that no other refers to are left out, each frame that is left waits for the
one before it, and they all wait at the end of each run. No library is known here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

from sensorium_media_video.clip import Frame
from sensorium_media_video.timeline import Run

#: A frame and its index.
Found: TypeAlias = tuple[int, Frame]

#: Frames that wait to be given out, for each decoder.
FRAMES_AHEAD = 4
#: Wanted frames in a run, on average, in parts of what may wait, up to which decoders share a clip.
#: While one run is read, as many frames of later ones are decoded as may wait: at four times as
#: many in a run a third is gained, which a decoder's own threads gain as well.
_MOST_OF_ROOM = 4


class RunDecoder(Protocol):
    """Decodes runs that ascend."""

    def frames(self, run: Run) -> Iterator[Found]:
        """The wanted frames of a run, ascending; fewer where they can't be decoded."""


#: Opens a decoder for as long as the context lasts; it ends a run early once the event is set.
OpenDecoder: TypeAlias = Callable[[threading.Event], AbstractContextManager[RunDecoder]]


def num_decoders(runs: Sequence[Run], num_threads: int) -> int:
    """How many decoders should share the threads: one for each, where runs and few frames allow."""
    count = min(num_threads, len(runs))
    num_wanted = sum(len(run.wanted) for run in runs)
    return count if num_wanted <= _MOST_OF_ROOM * FRAMES_AHEAD * count * len(runs) else 1


class SideBySide:
    """Decodes as soon as it is made; to be closed.

    At most ``FRAMES_AHEAD`` frames a decoder wait to be given out, one of the run that is being
    given out besides, and each decoder may hold one more.

    Args:
        runs: ascending.
        open_decoder: called in each thread.
        num_decoders: threads.
    """

    def __init__(self, runs: Sequence[Run], open_decoder: OpenDecoder, num_decoders: int) -> None:
        self._runs = runs
        self._open_decoder = open_decoder
        self._most_waiting = FRAMES_AHEAD * num_decoders
        # What follows changes under this lock.
        self._changed = threading.Condition()
        self._num_claimed = 0
        self._place = 0  # of the run that is being given out
        self._waiting: list[deque[Found]] = [deque() for _ in runs]
        self._num_waiting = 0
        self._is_decoded = [False] * len(runs)
        self._errors: dict[int, Exception] = {}
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(num_decoders):
                thread = threading.Thread(target=self._work, name="sensorium-decoder", daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError:  # the system starts no more
            self.close()
            raise

    def frames(self) -> Iterator[Found]:
        """The runs' frames, in order; to be called once.

        Raises:
            Exception: what a decoder raised, behind the frames that come before it.
            RuntimeError: it was closed meanwhile.
        """
        for place in range(len(self._runs)):
            while (found := self._next(place)) is not None:
                yield found

    def close(self) -> None:
        """Ends the threads and waits for them."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():  # where the collector called
                thread.join()
        self._waiting.clear()
        self._errors.clear()

    def _next(self, place: int) -> Found | None:
        """The next frame of the run at this place; None: there are no more."""
        with self._changed:
            self._place = place
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._stopped.is_set() or self._waiting[place] or self._is_decoded[place]
            )
            if self._stopped.is_set():
                raise RuntimeError("the clip was closed while its frames were read")
            if self._waiting[place]:
                self._num_waiting -= 1
                self._changed.notify_all()
                return self._waiting[place].popleft()
            if place in self._errors:
                raise self._errors.pop(place)
            return None

    def _work(self) -> None:
        """What a thread does: decodes runs until all are claimed."""
        place = self._claim()
        if place is None:
            return
        try:
            with self._open_decoder(self._stopped) as decoder:
                while place is not None:
                    for found in decoder.frames(self._runs[place]):
                        if not self._put(place, found):
                            return
                    self._end(place)
                    place = self._claim()
        except Exception as error:
            if place is not None:
                self._end(place, error)

    def _claim(self) -> int | None:
        """The place of the next run that nobody decodes."""
        with self._changed:
            if self._stopped.is_set() or self._num_claimed == len(self._runs):
                return None
            self._num_claimed += 1
            return self._num_claimed - 1

    def _put(self, place: int, found: Found) -> bool:
        """Waits until there is room for a frame; whether there was before the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped.is_set() or self._has_room(place))
            if self._stopped.is_set():
                return False
            self._waiting[place].append(found)
            self._num_waiting += 1
            self._changed.notify_all()
            return True

    def _has_room(self, place: int) -> bool:
        # The frame that comes next always has: those of later runs may fill all the room.
        is_next = place == self._place and not self._waiting[place]
        return is_next or self._num_waiting < self._most_waiting

    def _end(self, place: int, error: Exception | None = None) -> None:
        with self._changed:
            self._is_decoded[place] = True
            if error is not None:
                self._errors[place] = error
            self._changed.notify_all()
