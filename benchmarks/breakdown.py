"""Where the time of ``serving.py``'s measures goes: host, tower, prefill, decode, media.

    python benchmarks/breakdown.py [--model qwen25vl-3b] [--only a,b] [--share 0.25]
                                   [--json FILE] [--traces FOLDER]

Each measure is done three times, with new requests each time: to warm up, by the clock (``wall``),
and under torch's profiler, from whose trace all the rest comes. Printed at the end is a table with
a row for each call of the engine: c and d are the first tokens, then all; e and f have several too.

    busy                   the device did something (overlaps counted once)
    host                   wall − busy, of two runs: on a busy machine it may be below 0
    tower … other          what the device did, by who asked for it (``traces/marks.py``)
    media                  sum over the media threads
    idle: in replays       gaps between kernels of one graph
    idle: beside media     otherwise, while at least one media thread worked
    idle: otherwise        and the rest; busy and idle add up to ``wall, traced``

Above it, for each row, the device's time by kinds of kernels, and what the engine's thread did.

The engine is a thread of this process here, since kernels are seen where they are launched: it
shares the interpreter with frontend and media, and pins features itself, which in serving is done
before. So wall, host and idle are more than in serving, traced ones more still, gaps in replays
most of all: what is meant to be read is the device's share. Without a GPU the kernels are the
operators of the engine's thread, and its Python is what counts as idle. ``--share`` asks for fewer
requests and pages, and for fewer steps in c and d: smaller traces, but smaller batches in a, b, g.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from engines import Engine, Request
from engines.ours import Sensorium
from serving import CLIPS_HELP, MEASURES, UNNAMED, Sizes, Work, clip_files, named_model, wanted_of
from traces.marks import MEDIA, PHASES, RUN, STEP, Marks
from traces.trace import Kernel, Trace, clipped, covered_us, innermost, name_at, replays

#: Kinds of kernels by their names; the first that matches.
KINDS = {
    "attention": r"\b(decode|prefill|merge)_kernel<|flash|fmha|sdpa|attention",
    "products": r"gemm|gemv|cutlass|nvjet|cublas|xmma|splitk|(?<!bi)linear|matmul|::\w*mm\b",
    "norms": r"norm",
    "rope, store": r"rope|store_kv",
    "gate": r"silu|gelu",
    "copies": r"memcpy|memset|copy|catarray|::cat\b|::to\b|contiguous|clone",
}
REST, OTHER = "rest", "other"
#: Of the kernels in ``REST``, how many are named.
NUM_NAMED = 3
#: Characters of a kernel's name.
MAX_NAME = 120
#: Fractions of what a trace lacks that are said.
NOTED = 0.01
#: Calls of the engine in a measure that makes several.
CALLS = {
    "c": ("first", "all"),
    "d": ("first", "all"),
    "e": ("new", "new question", "same"),
    "f": ("shared", "own"),
    "i": ("new", "new question", "same"),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """What one phase asked for.

    Attributes:
        kinds: kind → ms of the device.
        kernels, calls: how many kernels there were, and how many ranges asked for them.
        host_ms: of the engine's thread.
    """

    kinds: dict[str, float]
    kernels: int
    calls: int
    host_ms: float

    @property
    def ms(self) -> float:
        """Of the device."""
        return sum(self.kinds.values())


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One call of the engine.

    Attributes:
        phases: those of ``PHASES``, and ``OTHER``.
        thread: the engine's, outside of phases: what it did → ms.
        largest: the largest kernels of ``REST``: name, ms, how many.
        lost: fraction of launches of which the trace doesn't have the kernel.
        unasked: fraction of the device's time of which it doesn't have the launch.
    """

    name: str
    wall_ms: float
    traced_ms: float
    busy_ms: float
    media_ms: float
    idle_in_replays_ms: float
    idle_beside_media_ms: float
    idle_otherwise_ms: float
    phases: dict[str, Phase]
    thread: dict[str, float]
    largest: list[tuple[str, float, int]]
    lost: float
    unasked: float


class Watched:
    """An engine of which each call is timed, or traced while there are ``marks``.

    Args:
        folder: where traces stay, by number.
    """

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self.engine = engine
        self.marks: Marks | None = None
        self._folder = folder
        self._numbers = itertools.count()
        self.walls_s: list[float] = []
        self.traces: list[Trace] = []

    def run(self, requests: Sequence[Request], out_len: int) -> list[int]:
        """As the engine's."""
        if self.marks is not None:
            file = self._folder and self._folder / f"{next(self._numbers)}.json"
            came, trace = self.marks.trace(lambda: self.engine.run(requests, out_len), file)
            self.traces.append(trace)
            return came
        start = time.perf_counter()
        came = self.engine.run(requests, out_len)
        self.walls_s.append(time.perf_counter() - start)
        return came


@functools.cache
def kind_of(name: str) -> str:
    """The kind of a kernel."""
    found = (kind for kind, names in KINDS.items() if re.search(names, name, re.IGNORECASE))
    return next(found, REST)


def broken_down(name: str, wall_s: float, trace: Trace) -> Breakdown:
    """A trace's figures."""
    [run] = trace.named(RUN)
    [engine] = {step.thread for step in trace.named(STEP)}
    kernels = [
        kernel
        for kernel in trace.kernels
        if kernel.thread in (None, engine) and run.start_us <= kernel.start_us < run.stop_us
    ]
    busy, graphs, media = (
        clipped(spans, run.span)
        for spans in (
            (kernel.span for kernel in kernels),
            replays(kernels),
            (work.span for work in trace.named(MEDIA)),
        )
    )
    until_us = [0.0, covered_us(busy), covered_us(busy, graphs), covered_us(busy, graphs, media)]
    until_us.append(run.stop_us - run.start_us)
    pieces_ms = [1e-3 * (after - before) for before, after in itertools.pairwise(until_us)]
    phases, thread = by_phase(trace, kernels, engine)
    unasked_us = sum(kernel.us for kernel in kernels if kernel.asked_us is None)
    return Breakdown(
        name=name,
        wall_ms=1e3 * wall_s,
        traced_ms=1e-3 * until_us[-1],
        busy_ms=pieces_ms[0],
        media_ms=1e-3 * sum(stop - start for start, stop in media),
        idle_in_replays_ms=pieces_ms[1],
        idle_beside_media_ms=pieces_ms[2],
        idle_otherwise_ms=pieces_ms[3],
        phases=phases,
        thread=thread,
        largest=largest_of(REST, kernels),
        lost=trace.lost / max(1, trace.launches),
        unasked=unasked_us / max(1.0, sum(kernel.us for kernel in kernels)),
    )


def by_phase(
    trace: Trace, kernels: Sequence[Kernel], engine: int
) -> tuple[dict[str, Phase], dict[str, float]]:
    """The phases, and what the engine's thread did outside of them (ms)."""
    own = [found for found in trace.ranges if found.thread == engine]
    segments = list(innermost(own))
    host: defaultdict[str, float] = defaultdict(float)
    for (start, stop), name in segments:
        host[name] += 1e-3 * (stop - start)
    kinds: dict[str, defaultdict[str, float]] = {
        name: defaultdict(float) for name in (*PHASES, OTHER)
    }
    counts: Counter[str] = Counter()
    for kernel in kernels:
        phase = name_at(segments, kernel.asked_us)
        phase = phase if phase in PHASES else OTHER
        kinds[phase][kind_of(kernel.name)] += 1e-3 * kernel.us
        counts[phase] += 1
    calls = Counter(found.name for found in own)
    phases = {
        name: Phase(dict(kinds[name]), counts[name], calls[name], host.pop(name, 0.0))
        for name in kinds
    }
    return phases, dict(host)


def largest_of(kind: str, kernels: Sequence[Kernel]) -> list[tuple[str, float, int]]:
    """The kernels of a kind that take most of the device's time: name, ms, how many."""
    spent: defaultdict[str, list[float]] = defaultdict(list)
    for kernel in kernels:
        if kind_of(kernel.name) == kind:
            spent[kernel.name].append(1e-3 * kernel.us)
    largest = sorted(spent.items(), key=lambda item: -sum(item[1]))[:NUM_NAMED]
    return [(name, sum(each), len(each)) for name, each in largest]


def table(rows: Sequence[Breakdown]) -> Iterator[str]:
    """Markdown, a row for each call."""
    columns = ["ms", "wall", "busy", "host", *PHASES, OTHER, "media", "wall, traced"]
    columns += ["idle: in replays", "beside media", "otherwise"]
    yield line(columns)
    yield line(["---", *["---:"] * (len(columns) - 1)])
    for row in rows:
        figures = [row.wall_ms, row.busy_ms, row.wall_ms - row.busy_ms]
        figures += [phase.ms for phase in row.phases.values()]
        figures += [row.media_ms, row.traced_ms, row.idle_in_replays_ms]
        figures += [row.idle_beside_media_ms, row.idle_otherwise_ms]
        yield line([row.name, *(f"{ms:.1f}" for ms in figures)])


def details(row: Breakdown) -> Iterator[str]:
    """Markdown: the device's time by kind and phase, and what doesn't fit into a table."""
    phases = {name: phase for name, phase in row.phases.items() if phase.kernels or phase.calls}
    yield f"\n{row.name}\n"
    yield line(["ms", *phases, "all"])
    yield line(["---", *["---:"] * (len(phases) + 1)])
    for kind in (*KINDS, REST):
        each = [phase.kinds.get(kind, 0.0) for phase in phases.values()]
        if any(each):
            yield line([kind, *(f"{ms:.2f}" for ms in (*each, sum(each)))])
    each = [phase.ms for phase in phases.values()]
    yield line(["all", *(f"{ms:.2f}" for ms in (*each, sum(each)))])
    for name, counts in (
        ("kernels", [phase.kernels for phase in phases.values()]),
        ("calls", [phase.calls for phase in phases.values()]),
    ):
        yield line([name, *(str(count) for count in counts), str(sum(counts))])
    each = [phase.host_ms for phase in phases.values()]
    yield line(["engine's thread", *(f"{ms:.2f}" for ms in (*each, sum(each)))])
    besides = ", ".join(f"{name} {ms:.1f}" for name, ms in sorted(row.thread.items()))
    yield f"\nThe engine's thread besides, ms: {besides}."
    for name, ms, count in row.largest:
        yield f"- {REST}: {ms:.2f} ms, {count} of `{name[:MAX_NAME]}`"
    if row.lost > NOTED:
        yield f"- **{row.lost:.0%} of the launches left no kernel in the trace: lower --share.**"
    if row.unasked > NOTED:
        yield f"- **Of {row.unasked:.0%} of the time the launch is unknown; it is in {OTHER}.**"


def line(cells: Sequence[str]) -> str:
    """Of a table."""
    return f"| {' | '.join(cells)} |"


def measured(letter: str, work: Work, watched: Watched, marks: Marks) -> list[Breakdown]:
    """A measure's calls."""
    measure, _ = MEASURES[letter]
    measure(work)
    watched.walls_s.clear()
    measure(work)
    watched.marks = marks
    measure(work)
    watched.marks = None
    traces, watched.traces = watched.traces, []
    names = [f"{letter}: {call}" for call in CALLS[letter]] if letter in CALLS else [letter]
    return [broken_down(*of) for of in zip(names, watched.walls_s, traces, strict=True)]


def scaled(sizes: Sizes, share: float) -> Sizes:
    """Fewer requests, pages and steps."""
    names = ("requests", "pages", "clips", "decode_len")
    return replace(sizes, **{name: max(2, round(share * getattr(sizes, name))) for name in names})


def main() -> None:
    """Measures and prints."""
    os.environ.setdefault("TEARDOWN_CUPTI", "0")  # what torch sets itself where it knows of graphs
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen25vl-3b" if on_gpu else "tiny")
    parser.add_argument("--only", default=UNNAMED, help="letters, with commas")
    parser.add_argument("--share", type=float, default=1.0, help="of requests, pages and steps")
    parser.add_argument("--options", default="{}", help="JSON: more options of the engine")
    parser.add_argument("--clips", nargs="?", const="", help=CLIPS_HELP)
    parser.add_argument("--json", type=Path, help="keeps every figure")
    parser.add_argument("--traces", type=Path, help="a folder that keeps the traces, numbered")
    given = parser.parse_args()
    model = named_model(given.model)
    wanted, needed = wanted_of(given.only, model)
    options = needed | json.loads(given.options) | {"engine_process": False}
    if given.traces:
        given.traces.mkdir(parents=True, exist_ok=True)
    marks = Marks()
    marks.check("cuda" if on_gpu else "cpu")  # before graphs are captured: CUPTI is there then
    engine = Sensorium(model.folder, options)
    watched = Watched(engine, given.traces)
    # Threads, not processes: this one has a GPU, and others that a fork would lose.
    sizes = scaled(model.sizes, given.share)
    work = Work(watched, model, sizes, ThreadPoolExecutor, clips=clip_files(given.clips, sizes))
    about = {"model": given.model, "torch": torch.__version__, "share": given.share}
    about["device"] = torch.cuda.get_device_name() if on_gpu else "CPU"
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    rows: list[Breakdown] = []
    with engine.llm:
        for letter in wanted:
            found = measured(letter, work, watched, marks)
            print("\n".join(text for row in found for text in details(row)), flush=True)
            rows += found
            if given.json:
                kept = about | {"rows": [asdict(row) for row in rows]}
                given.json.write_text(json.dumps(kept, indent=1) + "\n")
    print("\n".join(["", *table(rows)]))


if __name__ == "__main__":
    main()
