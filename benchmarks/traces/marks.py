"""``Marks``: an engine's phases as ranges of a trace, put around its functions from outside.

    engine's thread   plan │ step: tower, prefill or decode, sampling │ wait │ take in
    media threads     media
    caller's thread   run

A step is a prefill if any of its chunks is of a prompt; what else it decodes counts there too.
Sampling begins behind the last norm: the output matrix is part of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from sensorium.media.maker import Making
from sensorium.runner import Runner
from sensorium.runner.forward import ForwardPass
from sensorium.runner.pending_step import PendingStep
from sensorium.runner.request_state import RunningRequest
from sensorium.scheduler import Scheduler
from sensorium.types import Batch, Chunk
from traces.trace import PREFIX, Trace, innermost, name_at, read

Result = TypeVar("Result")
#: What the device is asked for in.
PHASES = ("tower", "prefill", "decode", "sampling")
RUN, STEP, MEDIA = "run", "step", "media"


class Marks:
    """Of every engine of this process that is made after it; they cost next to nothing while off.

    Attributes:
        on: whether they are recorded.
    """

    def __init__(self) -> None:
        self.on = False
        self._mark(Scheduler, "schedule", lambda *_: "plan")
        self._mark(Scheduler, "process", lambda *_: "take in")
        self._mark(Runner, "launch", lambda *_: STEP)
        self._mark(Runner, "sample", lambda *_: STEP)
        self._mark(Runner, "_encode", _encode_phase)
        self._mark(ForwardPass, "forward", _forward_phase)
        self._mark(ForwardPass, "sample", lambda *_: "sampling")
        self._mark(PendingStep, "result", lambda *_: "wait")
        self._mark(Making, "run", lambda *_: MEDIA)

    def trace(self, work: Callable[[], Result], file: Path | None = None) -> tuple[Result, Trace]:
        """Does some work and reads its trace, which stays in ``file``."""
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        all_threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
        with profile(activities=activities, experimental_config=all_threads) as profiler:
            self.on = True
            try:
                with record_function(PREFIX + RUN):
                    result = work()
            finally:
                self.on = False
        with TemporaryDirectory() as folder:
            written = file or Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(written))
            return result, read(written)

    def check(self, device: str) -> None:
        """Tries a trace with a kernel and a range of another thread; the first one takes long.

        Raises:
            SystemExit: one of the two isn't there.
        """

        def work() -> None:
            with record_function(PREFIX + STEP):
                torch.ones(1, device=device).sum().item()

        with ThreadPoolExecutor(1) as thread:
            thread.submit(int).result()  # it is there before the trace begins, as the engine's is
            _, trace = self.trace(lambda: thread.submit(work).result())
        if device != "cpu" and not trace.on_device:
            raise SystemExit("torch's profiler sees no kernels here: CUPTI is missing or refused")
        segments = list(innermost(trace.named(STEP)))
        if not any(name_at(segments, kernel.asked_us) for kernel in trace.kernels):
            raise SystemExit("torch's profiler doesn't see other threads' ranges or launches here")

    def _mark(self, owner: Any, name: str, phase: Callable[..., str]) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return function(*args, **kwargs)
            with record_function(PREFIX + phase(*args)):
                return function(*args, **kwargs)

        setattr(owner, name, marked)


def _encode_phase(runner: Runner, batch: Batch, *_: object) -> str:
    return "tower" if batch.encode else STEP


def _forward_phase(
    forward: ForwardPass, chunks: Sequence[Chunk], running: Sequence[RunningRequest]
) -> str:
    decodes = all(
        chunk.start >= len(of.request.token_ids) for chunk, of in zip(chunks, running, strict=True)
    )
    return "decode" if decodes else "prefill"
