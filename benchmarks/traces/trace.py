"""A chrome trace of torch's profiler as intervals: what the device did, and what was going on.

    range    one of ``record_function`` whose name begins with ``PREFIX``, on its thread
    kernel   what the device did in one go; it knows when the host asked for it, by the correlation
             that the two have in common, which is the launch's for all kernels of a graph

Where no device has left anything, an operator of the CPU that no other called is a kernel. It
knows no engine. Times are microseconds of the trace's own clock, spans half-open.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Of the ranges that are read.
PREFIX = "sensorium:"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
ON_HOST = ("cuda_runtime", "cuda_driver")
#: Calls that leave something on the device.
LAUNCH = re.compile(r"Launch(?!HostFunc)|Memcpy|Memset")

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Range:
    """A named piece of a thread's time."""

    name: str
    thread: int
    start_us: float
    stop_us: float

    @property
    def span(self) -> Span:
        """From where to where."""
        return self.start_us, self.stop_us


@dataclass(frozen=True, slots=True)
class Kernel:
    """A piece of the device's time.

    Attributes:
        asked_us: when the host launched it; None if the trace doesn't say.
        replay: the number of the graph launch that it belongs to.
        thread: of an operator; None on a device.
    """

    name: str
    start_us: float
    stop_us: float
    asked_us: float | None
    replay: int | None = None
    thread: int | None = None

    @property
    def us(self) -> float:
        """How long it took."""
        return self.stop_us - self.start_us

    @property
    def span(self) -> Span:
        """From where to where."""
        return self.start_us, self.stop_us


@dataclass(frozen=True, slots=True)
class Trace:
    """What was read.

    Attributes:
        kernels: by their start.
        on_device: whether they are a device's.
        launches: calls that should have left something there.
        lost: those of which nothing is there.
    """

    ranges: list[Range]
    kernels: list[Kernel]
    on_device: bool
    launches: int = 0
    lost: int = 0

    def named(self, name: str) -> list[Range]:
        """The ranges of this name."""
        return [found for found in self.ranges if found.name == name]


def read(file: Path) -> Trace:
    """Reads what ``export_chrome_trace`` wrote."""
    events = [event for event in json.loads(file.read_text())["traceEvents"] if "dur" in event]
    ranges = [
        Range(event["name"].removeprefix(PREFIX), event["tid"], *_span(event))
        for event in events
        if event.get("cat") == "user_annotation" and event["name"].startswith(PREFIX)
    ]
    on_device = [event for event in events if event.get("cat") in ON_DEVICE]
    if not on_device:
        return Trace(ranges, _operators(events), on_device=False)
    calls = {
        event["args"]["correlation"]: event
        for event in events
        if event.get("cat") in ON_HOST and "correlation" in event.get("args", {})
    }
    kernels = sorted((_kernel(event, calls) for event in on_device), key=lambda of: of.start_us)
    seen = {event["args"].get("correlation") for event in on_device}
    launches = [number for number, call in calls.items() if LAUNCH.search(call["name"])]
    lost = len(set(launches) - seen)
    return Trace(ranges, kernels, on_device=True, launches=len(launches), lost=lost)


def innermost(ranges: Iterable[Range]) -> Iterator[tuple[Span, str]]:
    """Which of one thread's nested ranges it is in, and from where to where; in order."""
    open_ones: list[Range] = []
    at = float("-inf")
    for entered in sorted(ranges, key=lambda of: (of.start_us, -of.stop_us)):
        while open_ones and open_ones[-1].stop_us <= entered.start_us:
            left = open_ones.pop()
            if at < left.stop_us:
                yield (at, left.stop_us), left.name
                at = left.stop_us
        if open_ones and at < entered.start_us:
            yield (at, entered.start_us), open_ones[-1].name
        open_ones.append(entered)
        at = entered.start_us
    while open_ones:
        left = open_ones.pop()
        if at < left.stop_us:
            yield (at, left.stop_us), left.name
            at = left.stop_us


def name_at(segments: Sequence[tuple[Span, str]], at_us: float | None) -> str | None:
    """The name of the one of ``innermost``'s that a time lies in."""
    if at_us is None:
        return None
    i = bisect_right(segments, at_us, key=lambda segment: segment[0][0]) - 1
    return segments[i][1] if i >= 0 and at_us < segments[i][0][1] else None


def clipped(spans: Iterable[Span], window: Span) -> list[Span]:
    """What of them lies in the window."""
    cut = ((max(start, window[0]), min(stop, window[1])) for start, stop in spans)
    return [(start, stop) for start, stop in cut if start < stop]


def covered_us(*groups: Iterable[Span]) -> float:
    """How long at least one span of any group lasts."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(span for group in groups for span in group):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def replays(kernels: Sequence[Kernel]) -> list[Span]:
    """From the first to the last kernel of each graph launch."""
    found: dict[int, Span] = {}
    for kernel in kernels:
        if kernel.replay is not None:
            start, stop = found.get(kernel.replay, kernel.span)
            found[kernel.replay] = min(start, kernel.start_us), max(stop, kernel.stop_us)
    return list(found.values())


def _kernel(event: dict[str, Any], calls: dict[int, dict[str, Any]]) -> Kernel:
    number = event["args"].get("correlation")
    call = calls.get(number)
    if call is None:
        return Kernel(event["name"], *_span(event), None)
    in_graph = "GraphLaunch" in call["name"]
    return Kernel(event["name"], *_span(event), float(call["ts"]), number if in_graph else None)


def _operators(events: Iterable[dict[str, Any]]) -> list[Kernel]:
    """Operators that no other called, each asked for when it began."""
    found: list[Kernel] = []
    ends: dict[int, float] = {}
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    for event in sorted(operators, key=lambda of: (of["ts"], -of["dur"])):
        start, stop = _span(event)
        if start >= ends.get(event["tid"], start):
            ends[event["tid"]] = stop
            found.append(Kernel(event["name"], start, stop, start, thread=event["tid"]))
    return found


def _span(event: dict[str, Any]) -> Span:
    return float(event["ts"]), float(event["ts"]) + float(event["dur"])
