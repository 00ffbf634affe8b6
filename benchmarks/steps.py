"""The host's part of a step by itself: planning it, taking it in, and sending what is new.

    python benchmarks/steps.py [--sequences 64,256] [--steps 400] [--json FILE]

The real scheduler, driven as ``EngineCore`` drives it on an accelerator: step n+1 is planned before
step n is taken in. A stand-in runner answers at once, outside of the times, with a token for each
chunk that samples. Prefix caching is on, pages hold 16 tokens, no two prompts begin alike.

    decode    every sequence decodes one token a step, behind prompts of 497 to 512 tokens: of
              unequal lengths, so that in each step as many of them begin a page as in any other
    prefill   64 prompts of 512 tokens, one new token each, in steps of 8192 tokens: 16 prompts a
              step, which are hashed, looked up, given pages, registered and ended. A run's times
              are divided by its steps.

    add              ``Scheduler.add``, between two steps
    schedule         ``Scheduler.schedule``
    process          ``Scheduler.process``
    record           what ``Recorder`` counts for ``stats()``: to stay under a hundredth of a step
    encode_updates   the bytes that go to the frontend's process (``engine/ipc/messages.py``)
    decode_updates   these bytes made updates again; the one part that the other process pays

No peer has these seams, so there is none to measure against. All of this is the interpreter's work,
and how fast that goes differs between machines, and on one machine with what else it does. So a
yardstick is measured between the steps: 500 rounds of a fixed loop, ``time_rounds``, each of which
makes a tuple, keeps it in a dict and counts an attribute up. The last column says how many such
rounds a figure is worth: by it figures of two machines can be compared, where µs can't.

Printed: the median over the steps (of prefill, over runs) and the ninth decile, which catches what
the garbage collector and other programs take; per sequence, the median.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from sensorium import SamplingParams
from sensorium.engine.ipc.messages import decode, encode_updates, updates_of
from sensorium.engine.recorder import Recorder
from sensorium.scheduler import Scheduler, SchedulerConfig
from sensorium.types import Batch, EngineRequest, RequestUpdate, SampledTokens, StepOutput

PAGE_SIZE = 16
PROMPT_LEN = 512
BUDGET = 8192
PREFILL_PROMPTS = 64
PREFILL_RUNS = 15
YARDSTICK_ROUNDS = 500

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """What one part of a case costs.

    Attributes:
        num_sequences: in one step.
        steps_us: each step's time, or the mean step's of each run.
        round_us: the yardstick's round, median, as measured between these steps.
    """

    case: str
    part: str
    num_sequences: int
    steps_us: tuple[float, ...]
    round_us: float


class Clock:
    """Adds up what the parts of a step take, in seconds."""

    def __init__(self) -> None:
        self.spent_s: defaultdict[str, float] = defaultdict(float)

    def time(self, part: str, call: Callable[..., T], *args: Any) -> T:
        """Calls and counts it."""
        start_s = time.perf_counter()
        result = call(*args)
        self.spent_s[part] += time.perf_counter() - start_s
        return result


class Host:
    """A scheduler, and steps in flight that a stand-in has computed."""

    def __init__(self, num_sequences: int, max_len: int) -> None:
        pages_each = -(-max_len // PAGE_SIZE) + 1
        config = SchedulerConfig(
            page_size=PAGE_SIZE,
            num_pages=num_sequences * pages_each,
            max_num_batched_tokens=BUDGET,
            max_num_seqs=num_sequences,
            max_model_len=max_len,
            prefix_caching=True,
            chunked_prefill=True,
            encoder_cache_bytes=0,
        )
        self.scheduler = Scheduler(config)
        self._in_flight: deque[tuple[Batch, StepOutput]] = deque()
        self._token_ids = random.Random(1)
        self._recorder = Recorder()

    def step(self, clock: Clock) -> Batch:
        """Plans a step and takes in the one before; behind the last one with chunks, both."""
        batch = clock.time("schedule", self.scheduler.schedule)
        self._in_flight.append((batch, self._computed(batch)))
        depth = 1 if batch.chunks else 0
        while len(self._in_flight) > depth:
            updates = clock.time("process", self.scheduler.process, *self._in_flight.popleft())
            clock.time("record", self._record, updates)
            if updates:
                frame = clock.time("encode_updates", encode_updates, updates)
                came = clock.time("decode_updates", lambda f: updates_of(*decode(f)[1:]), frame)
                assert came == updates, "updates change on their way"
        return batch

    def _record(self, updates: Sequence[RequestUpdate]) -> None:
        self._recorder.saw(updates)
        self._recorder.took_step(0.003)

    def _computed(self, batch: Batch) -> StepOutput:
        draw = self._token_ids.randrange
        sampling = (chunk.request_id for chunk in batch.chunks if chunk.num_rows)
        return StepOutput(tuple(SampledTokens(i, (draw(1000, 40000),)) for i in sampling))


def requests(lengths: Iterable[int], max_tokens: int, seed: int) -> list[EngineRequest]:
    """A request of each length, with token ids drawn anew."""
    draw = random.Random(seed)
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True).filled({})
    return [
        EngineRequest(
            request_id=f"request-{seed}-{i}",
            token_ids=tuple(draw.randrange(1000, 40000) for _ in range(length)),
            sampling=sampling,
            max_tokens=max_tokens,
            stop_ids=frozenset({2}),
        )
        for i, length in enumerate(lengths)
    ]


@dataclass(slots=True)
class _Counter:
    total: int = 0


def time_rounds() -> float:
    """The yardstick: what a round of it takes now, in µs.

    What a round does must never change, or older figures can't be compared any more.
    """
    counter = _Counter()
    kept: dict[int, tuple[int, int]] = {}
    start_s = time.perf_counter()
    for i in range(YARDSTICK_ROUNDS):
        kept[i & 63] = (i, counter.total)
        counter.total += 3
    return 1e6 * (time.perf_counter() - start_s) / YARDSTICK_ROUNDS


def measure_decode(num_sequences: int, num_steps: int) -> list[Line]:
    """``num_steps`` steps in which every sequence decodes."""
    num_prefill_steps = -(-num_sequences * PROMPT_LEN // (BUDGET - num_sequences)) + 1
    new_tokens = num_prefill_steps + PAGE_SIZE + num_steps + 2
    host = Host(num_sequences, PROMPT_LEN + new_tokens)
    lengths = [PROMPT_LEN - i % PAGE_SIZE for i in range(num_sequences)]
    for request in requests(lengths, new_tokens, seed=0):
        host.scheduler.add(request)
    for _ in range(num_prefill_steps + PAGE_SIZE):
        host.step(Clock())
    clocks, rounds_us = [], []
    for _ in range(num_steps):
        clocks.append(Clock())
        batch = host.step(clocks[-1])
        assert [len(c.token_ids) for c in batch.chunks] == [1] * num_sequences, "not all decode"
        rounds_us.append(time_rounds())
    return lines_of(f"decode, {num_sequences} sequences", num_sequences, clocks, rounds_us)


def measure_prefill() -> list[Line]:
    """Runs from the first ``add`` to the last update, each with a new scheduler and prompts."""
    num_steps = PREFILL_PROMPTS * PROMPT_LEN // BUDGET
    clocks, rounds_us = [], []
    for run in range(PREFILL_RUNS):
        host, clock = Host(PREFILL_PROMPTS, PROMPT_LEN + 1), Clock()
        for request in requests([PROMPT_LEN] * PREFILL_PROMPTS, 1, seed=run):
            clock.time("add", host.scheduler.add, request)
        batches = []
        while host.scheduler.has_work:
            batches.append(host.step(clock))
            rounds_us.append(time_rounds())
        assert sum(bool(batch.chunks) for batch in batches) == num_steps, "steps weren't full"
        clocks.append(clock)
    num = PREFILL_PROMPTS // num_steps
    return lines_of(f"prefill, {num} × {PROMPT_LEN}", num, clocks, rounds_us, num_steps)


def lines_of(
    case: str, num_sequences: int, clocks: list[Clock], rounds_us: list[float], num_steps: int = 1
) -> list[Line]:
    """A line for each part; a clock has run for ``num_steps`` steps."""
    yardstick_us = statistics.median(rounds_us)
    lines = []
    for part in clocks[0].spent_s:
        steps_us = tuple(1e6 * clock.spent_s[part] / num_steps for clock in clocks)
        lines.append(Line(case, part, num_sequences, steps_us, yardstick_us))
    return lines


def table(lines: Iterable[Line]) -> Iterator[str]:
    """Markdown."""
    yield "| | part | µs a step | ninth decile | µs a sequence | rounds a sequence |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for line in lines:
        high_us = statistics.quantiles(line.steps_us, n=10)[-1]
        step_us = statistics.median(line.steps_us)
        each_us = step_us / line.num_sequences
        yield (
            f"| {line.case} | {line.part} | {step_us:.0f} | {high_us:.0f} | "
            f"{each_us:.2f} | {each_us / line.round_us:.1f} |"
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", default="64,256", help="numbers of decoding sequences")
    parser.add_argument("--steps", type=int, default=400, help="timed steps of decode")
    parser.add_argument("--json", type=Path, help="keeps every figure")
    options = parser.parse_args()
    counts = [int(count) for count in options.sequences.split(",")]
    if options.steps < 2 or not all(0 < count < BUDGET for count in counts):
        parser.error(f"--steps must be 2 at least, --sequences from 1 to {BUDGET - 1}")
    lines = [line for count in counts for line in measure_decode(count, options.steps)]
    lines += measure_prefill()
    yardstick_us = statistics.median(line.round_us for line in lines)
    print(f"Python {platform.python_version()}, {yardstick_us:.4f} µs a round of the yardstick")
    print("\n".join(table(lines)))
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
