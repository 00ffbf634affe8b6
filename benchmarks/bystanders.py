"""What those who decode notice of clips: time from token to token while clips are encoded.

    python benchmarks/bystanders.py [--model qwen25vl-3b] [--pieces 1,8,1000] [--json FILE]

Some requests decode text all the while; one clip of one minute (120 frames of 640×360) after
another comes beside them, each in a request of one token. An engine is made for each number of
pieces that a step may encode while anybody decodes (``max_encode_pieces_per_step``); with the
largest, a clip is encoded in one step. No token waits for more than one step: so many pieces, at
most 4,096 patches each, and ``--batched`` tokens. Printed: the gaps between tokens of all the
decoding requests, before the first clip and from the first clip's coming to the last one's token,
and how long that took for a clip.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from engines import Request
from engines.ours import OPTIONS
from serving import CLIP_CONTEXT, Model, Requests, named_model

from sensorium import AsyncEngine, SamplingParams
from sensorium.outputs import RequestOutputKind

#: Tokens of a bystander's prompt.
PROMPT_LEN = 128
#: Decoding alone, in steps, before the first clip.
ALONE_TOKENS = 100


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds between a bystander's tokens."""

    median: float
    p99: float
    most: float

    @classmethod
    def of(cls, gaps_s: Sequence[float]) -> Gaps:
        """Of all of them."""
        assert len(gaps_s) > 1, "the bystanders got no tokens"
        cuts = statistics.quantiles(gaps_s, n=100, method="inclusive")
        return cls(1e3 * statistics.median(gaps_s), 1e3 * cuts[98], 1e3 * max(gaps_s))

    def __str__(self) -> str:
        return f"{self.median:.1f} | {self.p99:.1f} | {self.most:.1f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One engine.

    Attributes:
        clips_ms: from a clip's coming to its token.
    """

    pieces: int
    alone: Gaps
    beside: Gaps
    clips_ms: list[float]


class Bystanders:
    """Requests that decode until they are told to stop, and when their tokens came."""

    def __init__(self, engine: AsyncEngine, requests: Sequence[Request], max_tokens: int) -> None:
        self._engine = engine
        self.times_s: list[list[float]] = [[] for _ in requests]
        sampling = sampling_of(max_tokens)
        self._tasks = [
            asyncio.create_task(self._decode(request, sampling, times))
            for request, times in zip(requests, self.times_s, strict=True)
        ]

    async def _decode(
        self, request: Request, sampling: SamplingParams, times_s: list[float]
    ) -> None:
        async for _ in self._engine.generate(prompt_of(request), sampling):
            times_s.append(time.perf_counter())

    async def have(self, num_tokens: int) -> None:
        """Until each has so many tokens."""
        while min(map(len, self.times_s)) < num_tokens:
            if any(task.done() for task in self._tasks):
                raise SystemExit("the bystanders ended early")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Aborts them.

        Raises:
            SystemExit: one had ended, so that not all decoded to the end.
        """
        ended = any(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if ended:
            raise SystemExit("bystanders ended before the last clip: allow them more tokens")

    def gaps_s(self, start_s: float, stop_s: float) -> list[float]:
        """Between tokens, of those that ended in a span of time."""
        return [
            after - before
            for times in self.times_s
            for before, after in itertools.pairwise(times)
            if start_s <= after < stop_s
        ]


def sampling_of(max_tokens: int) -> SamplingParams:
    """Greedy, end-of-text ignored."""
    return SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        ignore_eos=True,
        output_kind=RequestOutputKind.DELTA,
    )


def prompt_of(request: Request) -> Any:
    """As the engine takes it."""
    return {"prompt_token_ids": request.prompt, "multi_modal_data": request.media}


async def measured(model: Model, options: dict[str, Any], num_clips: int, decoding: int) -> Row:
    """One engine's row."""
    # Bystanders' contexts must fit beside the clips', so that nobody is put off.
    max_tokens = CLIP_CONTEXT // 4
    work = Requests(model, model.sizes)
    requests = [work.request(PROMPT_LEN) for _ in range(decoding)]
    clips = [work.request(64, "video", [work.clip()]) for _ in range(num_clips + 1)]
    async with AsyncEngine(str(model.folder), **options) as engine:

        async def token_of(clip: Request) -> float:
            start_s = time.perf_counter()
            async for _ in engine.generate(prompt_of(clip), sampling_of(1)):
                pass
            return 1e3 * (time.perf_counter() - start_s)

        await token_of(clips[0])
        bystanders = Bystanders(engine, requests, max_tokens)
        warm = ALONE_TOKENS // 4
        await bystanders.have(warm)
        alone_s = time.perf_counter()
        await bystanders.have(warm + ALONE_TOKENS)
        begun_s = time.perf_counter()
        clips_ms = [await token_of(clip) for clip in clips[1:]]
        ended_s = time.perf_counter()
        await bystanders.stop()
    gaps = (bystanders.gaps_s(*span) for span in ((alone_s, begun_s), (begun_s, ended_s)))
    pieces = options["max_encode_pieces_per_step"]
    return Row(pieces, *(Gaps.of(each) for each in gaps), clips_ms)


def main() -> None:
    """Measures and prints."""
    on_gpu = torch.cuda.device_count() > 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen25vl-3b" if on_gpu else "tiny")
    parser.add_argument("--pieces", default="1,8,1000", help="a step, with commas")
    parser.add_argument("--batched", type=int, default=2048, help="tokens of a step at most")
    parser.add_argument("--clips", type=int, default=4 if on_gpu else 1)
    parser.add_argument("--decoding", type=int, default=16 if on_gpu else 2, help="bystanders")
    parser.add_argument("--json", type=Path, help="keeps every figure")
    given = parser.parse_args()
    model = named_model(given.model)
    print(f"{given.model}: {given.decoding} decode, {given.batched} tokens a step at most, in ms")
    columns = ("pieces a step", "alone", "99 %", "most", "beside clips", "99 %", "most", "a clip")
    print("| " + " | ".join(columns) + " |\n|" + " ---: |" * len(columns), flush=True)
    rows = []
    for pieces in map(int, given.pieces.split(",")):
        options = OPTIONS | {
            "max_model_len": CLIP_CONTEXT,
            "max_num_batched_tokens": given.batched,
            "max_encode_pieces_per_step": pieces,
        }
        row = asyncio.run(measured(model, options, given.clips, given.decoding))
        rows.append(row)
        clip_ms = statistics.median(row.clips_ms)
        print(f"| {row.pieces} | {row.alone} | {row.beside} | {clip_ms:.0f} |", flush=True)
    if given.json:
        kept = {"model": given.model, "batched": given.batched, "decoding": given.decoding}
        given.json.write_text(json.dumps(kept | {"rows": [asdict(r) for r in rows]}, indent=1))


if __name__ == "__main__":
    main()
