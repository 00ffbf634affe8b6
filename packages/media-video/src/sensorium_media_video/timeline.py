"""``Timeline``: what a container's packets say of a clip's frames, and which packets to decode.

Packets are counted in the order in which they are stored, which is that of decoding; frames in the
order in which they are shown. Nothing here decodes, and no library is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]

#: How far a frame may be from its place in an even rate: containers round times, to a millisecond.
EVEN_S = 0.0015
#: How far a container's own rate may be from its packets', to be believed.
RATE_SLACK = 0.01


@dataclass(slots=True)
class Packets:
    """Packets as they are counted, one entry for each.

    Attributes:
        times: presentation times in units of the time base; None where one is missing. Where they
            can't be trusted, decoding times do: frames are shown at the same intervals.
        keys: whether decoding can begin with it.
        shown: whether a frame comes of it.
        durations: how long it is shown, in units of the time base; 0: not known.
    """

    times: list[int | None] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """Packets to decode in one go.

    Attributes:
        start, stop: the packets' places, half-open.
        wanted: the frames that are wanted of it, ascending.
    """

    start: int
    stop: int
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A clip's frames.

    Attributes:
        times: of each frame, ascending, in units of the time base, as the decoder will give them.
        places: of each frame's packet.
        key_places, key_times: of the packets with which decoding can begin.
        is_timed: frames are told by their times; else they are counted, from the first.
        num_packets: all of them.
        fps: frames a second, on average.
        duration: in seconds, from the first frame to the end of the last.
        seconds: of each frame, from the first; () where that is ``index / fps``.
    """

    times: Integers
    places: Integers
    key_places: Integers
    key_times: Integers
    is_timed: bool
    num_packets: int
    fps: float
    duration: float
    seconds: tuple[float, ...]

    @property
    def num_frames(self) -> int:
        """Frames that are shown."""
        return len(self.times)

    def runs(self, indices: Sequence[int]) -> list[Run]:
        """The fewest packets that give these frames, in order.

        A run begins at a key packet. A frame belongs to the run before it unless decoding can begin
        behind what that run decodes anyway.
        """
        runs: list[Run] = []
        for index in indices:
            place = int(self.places[index])
            start = self._start(index)
            if runs and (start < runs[-1].stop or index == runs[-1].wanted[-1]):
                last = runs[-1]
                runs[-1] = Run(last.start, max(last.stop, place + 1), (*last.wanted, index))
            else:
                runs.append(Run(start, place + 1, (index,)))
        return runs

    def whole(self, indices: Sequence[int]) -> list[Run]:
        """The same frames, decoded from the first packet on."""
        return [Run(0, self.num_packets, tuple(indices))]

    def _start(self, index: int) -> int:
        """The last key packet from which the frame can be decoded."""
        before = int(np.searchsorted(self.key_places, self.places[index], side="right"))
        while before > 0 and self.key_times[before - 1] > self.times[index]:
            before -= 1  # the frame is shown before that key frame, and needs the one before
        return int(self.key_places[before - 1]) if before > 0 else 0


def make_timeline(
    packets: Packets, time_base: Fraction, stated_fps: float, *, trusted: bool
) -> Timeline:
    """Orders packets by what they say.

    Args:
        stated_fps: the container's own average rate; 0: it states none.
        trusted: the packets' times are those of their frames; else frames are counted, and the
            times tell only when some frame is shown.
    """
    places = np.flatnonzero(np.asarray(packets.shown, dtype=bool))
    keys = np.flatnonzero(np.asarray(packets.keys, dtype=bool))
    times = [packets.times[place] for place in places]
    seconds: tuple[float, ...] = ()
    if trusted and None not in packets.times and len(set(times)) == len(times):
        all_times = np.asarray(packets.times, dtype=np.int64)
        order = np.argsort(all_times[places], kind="stable")
        shown = all_times[places][order]
        last = packets.durations[places[order[-1]]] if len(order) else 0
        fps, duration, seconds = _rate(shown, time_base, stated_fps, last)
        return Timeline(
            shown,
            places[order],
            keys,
            all_times[keys],
            True,
            len(packets.times),
            fps,
            duration,
            seconds,
        )
    count = len(places)
    fps, duration = stated_fps, count / stated_fps if stated_fps else 0.0
    if None not in times and len(set(times)) == len(times):
        in_order = np.sort(np.asarray(times, dtype=np.int64))
        last = packets.durations[places[-1]] if count else 0
        fps, duration, seconds = _rate(in_order, time_base, stated_fps, last)
    none = np.empty(0, dtype=np.int64)
    numbers = np.arange(count, dtype=np.int64)
    return Timeline(numbers, places, none, none, False, len(packets.times), fps, duration, seconds)


def _rate(
    times: Integers, time_base: Fraction, stated_fps: float, last_duration: int
) -> tuple[float, float, tuple[float, ...]]:
    """(frames a second, seconds in all, the seconds of each frame if they are uneven)."""
    unit = float(time_base)
    seconds = (times - times[:1]) * unit
    count = len(times)
    if count < 2:
        duration = last_duration * unit or (1 / stated_fps if stated_fps else 0.0)
        return stated_fps or (1 / duration if duration else 0.0), duration, ()
    mean = float(seconds[-1]) / (count - 1)
    tail = last_duration * unit
    span = float(seconds[-1]) + (tail if 0 < tail < 10 * mean else mean)
    candidates = [fps for fps in (stated_fps, 1 / mean) if fps > 0]
    for fps in candidates:
        if np.abs(seconds - np.arange(count) / fps).max() <= EVEN_S + unit:
            return fps, count / fps, ()
    fps = count / span
    if stated_fps and abs(stated_fps / fps - 1) <= RATE_SLACK:
        fps = stated_fps
    return fps, span, tuple(seconds.tolist())
