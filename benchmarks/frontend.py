"""What a token costs the process that holds the frontend, whatever the engine does meanwhile.

    python benchmarks/frontend.py [--requests 64] [--tokens 128] [--step-ms 3] [--repeats 3]

A stand-in engine answers every request with the same number of tokens: one update a request and
step, as an engine in a process of its own sends them, decoded from its frames on the client's
thread. Everything behind that is real: streams, stop strings, detokenising, outputs, ``asyncio``.
Printed: the process's CPU time a token in µs (the median of the repeats), for each kind of output
(``LLM`` asks for FINAL_ONLY), at the pace of ``--step-ms`` and unpaced, where what waits is taken
together; and for one stream with log-probabilities of 400 and of 4,000 tokens: to be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import sensorium.engine.async_engine as async_engine
from sensorium import AsyncEngine, SamplingParams
from sensorium.engine.assembly import Assembly, assemble
from sensorium.engine.ipc.messages import decode, encode_updates, updates_of
from sensorium.outputs import RequestOutputKind
from sensorium.types import EngineRequest, RequestUpdate, TokenLogprobs
from sensorium_tiny_models import model_path

PROMPT = "What is in the picture?"
STREAMED = (RequestOutputKind.CUMULATIVE, RequestOutputKind.DELTA)


class StandIn:
    """An ``EngineClient`` whose answers lie ready as frames."""

    def __init__(self) -> None:
        self.request_ids: list[str] = []
        self.complete = threading.Event()
        self.num_expected = 0

    def start(self, on_updates: Callable[[Sequence[RequestUpdate]], None], _: Any) -> None:
        """Remembers whom to tell."""
        self._on_updates = on_updates

    def add(self, request: EngineRequest) -> Future[None]:
        """Takes it at once."""
        self.request_ids.append(request.request_id)
        if len(self.request_ids) == self.num_expected:
            self.complete.set()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def abort(self, request_ids: Iterable[str]) -> None:
        """Nothing is aborted here."""

    def close(self) -> None:
        """Nothing is held."""

    def play(self, frames: Sequence[bytes], step_s: float) -> None:
        """Sends a frame each ``step_s``."""
        next_s = time.monotonic()
        for frame in frames:
            next_s += step_s
            time.sleep(max(0.0, next_s - time.monotonic()) if step_s else 0.0)
            self._on_updates(updates_of(*decode(frame)[1:]))


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for in one run."""

    num_requests: int
    num_tokens: int
    step_s: float
    kind: RequestOutputKind
    logprobs: int | None = None


def frames_of(request_ids: Sequence[str], load: Load, token_ids: Sequence[int]) -> list[bytes]:
    """One frame a step, as the engine would send it."""
    frames = []
    logprobs: tuple[TokenLogprobs, ...] = ()
    if load.logprobs is not None:
        best = tuple(range(5, 5 + load.logprobs))
        logprobs = (TokenLogprobs(-1.0, 1, best, (-1.0,) * len(best)),)
    for step in range(load.num_tokens):
        last = step == load.num_tokens - 1
        frames.append(
            encode_updates(
                [
                    RequestUpdate(
                        request_id,
                        (token_ids[(step + i) % len(token_ids)],),
                        logprobs,
                        finish_reason="length" if last else None,
                        num_cached_tokens=16,
                        first_scheduled_s=1.0,
                    )
                    for i, request_id in enumerate(request_ids)
                ]
            )
        )
    return frames


async def run(engine: AsyncEngine, client: StandIn, load: Load, token_ids: Sequence[int]) -> float:
    """CPU seconds of this process a token."""
    sampling = SamplingParams(
        max_tokens=load.num_tokens,
        ignore_eos=True,
        logprobs=load.logprobs,
        output_kind=load.kind,
    )
    client.request_ids.clear()
    client.complete.clear()
    client.num_expected = load.num_requests

    async def consume() -> int:
        num_outputs = num_tokens = num_characters = 0
        async for output in engine.generate(PROMPT, sampling):
            num_outputs += 1
            [answer] = output.outputs
            new, text = len(answer.token_ids), len(answer.text)
            is_delta = load.kind is RequestOutputKind.DELTA
            num_tokens = num_tokens + new if is_delta else new
            num_characters = num_characters + text if is_delta else text
        assert num_tokens == load.num_tokens
        assert num_characters
        return num_outputs

    tasks = [asyncio.create_task(consume()) for _ in range(load.num_requests)]
    await asyncio.to_thread(client.complete.wait)
    await asyncio.sleep(0.1)
    frames = frames_of(client.request_ids, load, token_ids)
    player = threading.Thread(target=client.play, args=(frames, load.step_s))
    before = time.process_time()
    player.start()
    counts = await asyncio.gather(*tasks)
    spent = time.process_time() - before
    player.join()
    is_final = load.kind is RequestOutputKind.FINAL_ONLY
    assert is_final == (counts == [1] * load.num_requests)
    return spent / (load.num_requests * load.num_tokens)


def main() -> None:
    """Runs every load and prints a line of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--step-ms", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    client = StandIn()

    def with_stand_in(config: Any) -> Assembly:
        parts = assemble(config)
        parts.client.close()
        return replace(parts, client=client)

    async_engine.assemble = with_stand_in
    config = {"device": "cpu", "dtype": "float32", "max_num_seqs": options.requests}
    with AsyncEngine(str(model_path()), **config) as engine:
        text = "The quick brown fox sees three red squares, and naïve cafés: " * 4
        token_ids = engine.get_tokenizer().encode(text)
        step_s = options.step_ms / 1e3
        loads = [
            Load(options.requests, options.tokens, pace_s, kind)
            for kind in (RequestOutputKind.FINAL_ONLY, *STREAMED)
            for pace_s in (step_s, 0.0)
        ]
        # A stream's cost is to grow with its length, not with the square of it.
        loads += [Load(1, count, 1e-3, kind, 2) for kind in STREAMED for count in (400, 4000)]
        for load in loads:
            asyncio.run(run(engine, client, load, token_ids))
            figures = [
                asyncio.run(run(engine, client, load, token_ids)) for _ in range(options.repeats)
            ]
            pace = f"{1e3 * load.step_s:g} ms a step" if load.step_s else "unpaced"
            name = f"{load.num_requests} of {load.num_tokens} tokens, {load.kind.name}"
            name += "" if load.logprobs is None else f", {load.logprobs} logprobs"
            median, spread = statistics.median(figures), max(figures) - min(figures)
            print(f"{name}, {pace}: {1e6 * median:.1f} µs a token (± {5e5 * spread:.1f})")


if __name__ == "__main__":
    main()
