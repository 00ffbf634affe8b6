"""``AvDecoder``: decodes the runs of a clip with PyAV.

Packets that aren't needed are skipped, which costs no more than copying them and is right in every
container. Within a run (``timeline``) a frame that isn't wanted and that no other frame refers to
isn't decoded either, and what isn't wanted is never converted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sensorium_media_video.clip import Frame
from sensorium_media_video.side_by_side import Found
from sensorium_media_video.timeline import Run, Timeline


class AvDecoder:
    """Goes through a container's packets once.

    Args:
        context: PyAV's codec context.
        packets: all of them, in the order in which they are stored.
        convert: makes an array of a frame of PyAV's.
        is_sparse: frames that no other refers to are left out.
        stopped: once it is set, a run ends early.

    Attributes:
        num_decoded: packets that were decoded so far.
    """

    def __init__(
        self,
        context: Any,
        packets: Iterable[Any],
        timeline: Timeline,
        convert: Callable[[Any], Frame],
        *,
        is_sparse: bool,
        stopped: threading.Event,
    ) -> None:
        self.num_decoded = 0
        self._context = context
        self._packets = enumerate(packets)
        self._timeline = timeline
        self._convert = convert
        self._is_sparse = is_sparse
        self._stopped = stopped

    def frames(self, run: Run) -> Iterator[Found]:
        """The wanted frames of a run, each once, with their indices; runs must ascend."""
        told = _Told(self._timeline, run)
        for place, packet in self._packets:
            if self._stopped.is_set():
                return
            if place < run.start:
                continue
            if self._is_sparse:
                self._context.skip_frame = "DEFAULT" if told.is_wanted(place) else "NONREF"
            self.num_decoded += 1
            yield from self._converted(told, _decoded(self._context, packet))
            if told.is_done or place + 1 >= run.stop:
                break
        if not told.is_done:
            yield from self._converted(told, _decoded(self._context, None))
        self._context.flush_buffers()

    def _converted(self, told: _Told, frames: Sequence[Any]) -> Iterator[Found]:
        for frame in frames:
            index = told.index_of(frame)
            if index is not None:
                yield index, self._convert(frame)


class _Told:
    """Tells the frames of one run: by their times, or by counting them."""

    def __init__(self, timeline: Timeline, run: Run) -> None:
        self._is_timed = timeline.is_timed
        self._indices = {int(timeline.times[index]): index for index in run.wanted}
        self._places = {int(timeline.places[index]) for index in run.wanted}
        self._num_left = len(self._indices)
        self._num_seen = 0

    @property
    def is_done(self) -> bool:
        """Whether all that were wanted have come."""
        return not self._num_left

    def is_wanted(self, place: int) -> bool:
        """Whether the packet at this place gives a frame that is wanted."""
        return place in self._places

    def index_of(self, frame: Any) -> int | None:
        """The frame's index, if it is wanted."""
        time = frame.pts if self._is_timed else self._num_seen
        self._num_seen += 1
        index = self._indices.pop(time, None)
        self._num_left -= index is not None
        return index


def _decoded(context: Any, packet: Any) -> list[Any]:
    """The frames that come of a packet; none if it is damaged: that shows in what is missing."""
    try:
        return list(context.decode(packet))
    except Exception:
        return []
