"""``Clients``: sends streaming requests to a server and notes when what came.

The load is bounded on every side: the requests are a list made beforehand, at most ``at_once`` of
them are open, each has a time limit, and a connection is the next request's when one has ended.

A client takes twice as much CPU for a token as the server does. So there are several, in processes
of their own, where there are cores for them: one alone would be what is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import httpx2

_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        body: JSON; asks for a stream and its usage.
        at_s: when to send it, from the beginning of the load; 0: as soon as there is a place.
    """

    body: bytes
    at_s: float = 0.0
    path: str = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one request.

    Attributes:
        error: "" or what went wrong.
        begun_s, ended_s: from the beginning of the load.
        ttft_s: from sending to the first piece of text; 0 if none came.
        gaps_s: between one piece of text and the next.
        num_tokens: as the server counts them.
    """

    error: str = ""
    begun_s: float = 0.0
    ended_s: float = 0.0
    ttft_s: float = 0.0
    gaps_s: tuple[float, ...] = ()
    num_tokens: int = 0


class Clients:
    """Processes that load a server together: one for every four cores."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        count = max(1, len(os.sched_getaffinity(0)) // 4)
        self._pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(count)]

    def __enter__(self) -> Clients:
        for ready in [pool.submit(time.perf_counter) for pool in self._pools]:
            ready.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in self._pools:
            pool.shutdown()

    def drive(
        self, url: str, asks: Sequence[Ask], at_once: int, until_s: float = math.inf
    ) -> list[Seen]:
        """Sends the requests; returns what came, in their order.

        Args:
            until_s: no request is sent after that time from the beginning.
        """
        begun_s = time.perf_counter()  # the same clock in all processes
        count = min(len(self._pools), at_once)
        running = [
            pool.submit(_run, url, asks[i::count], len(range(i, at_once, count)), until_s, begun_s)
            for i, pool in enumerate(self._pools[:count])
        ]
        shares = itertools.zip_longest(*(future.result() for future in running))
        return [entry for turn in shares for entry in turn if entry is not None]


def _run(url: str, asks: Sequence[Ask], at_once: int, until_s: float, begun_s: float) -> list[Seen]:
    return asyncio.run(_drive(url, asks, at_once, until_s, begun_s))


async def _drive(
    url: str, asks: Sequence[Ask], at_once: int, until_s: float, begun_s: float
) -> list[Seen]:
    places = asyncio.Semaphore(at_once)
    limits = httpx2.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx2.AsyncClient(base_url=url, timeout=_PATIENCE_S, limits=limits) as client:

        async def one(ask: Ask) -> Seen | None:
            await asyncio.sleep(max(0.0, begun_s + ask.at_s - time.perf_counter()))
            async with places:
                if time.perf_counter() - begun_s > until_s:
                    return None
                try:
                    return await asyncio.wait_for(_send(client, ask, begun_s), _PATIENCE_S)
                except (httpx2.HTTPError, TimeoutError, OSError, ValueError) as error:
                    return Seen(error=f"{type(error).__name__}: {error}")

        seen = await asyncio.gather(*(one(ask) for ask in asks))
        return [entry for entry in seen if entry is not None]


async def _send(client: httpx2.AsyncClient, ask: Ask, begun_s: float) -> Seen:
    sent_s = time.perf_counter()
    times: list[float] = []
    usage: dict[str, int] = {}
    error = ""
    ended = False
    headers = {"Content-Type": "application/json"}
    async with client.stream("POST", ask.path, content=ask.body, headers=headers) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode(errors="replace")
            return Seen(error=f"status {response.status_code}: {text[:200]}")
        rest = b""
        async for data in response.aiter_bytes():
            *events, rest = (rest + data).split(b"\n\n")
            now_s = time.perf_counter()
            for event in events:
                ended |= event == b"data: [DONE]"
                if b'"usage":{' in event:
                    usage = json.loads(event.removeprefix(b"data: "))["usage"]
                elif event.startswith(b'data: {"error"'):
                    error = event.decode(errors="replace")[:200]
                elif _has_text(event):
                    times.append(now_s)
    return Seen(
        error=error or ("" if ended and usage else "the stream ended early"),
        begun_s=sent_s - begun_s,
        ended_s=time.perf_counter() - begun_s,
        ttft_s=times[0] - sent_s if times else 0.0,
        gaps_s=tuple(after - before for before, after in itertools.pairwise(times)),
        num_tokens=usage.get("completion_tokens", 0),
    )


def _has_text(event: bytes) -> bool:
    """Whether a chunk says something; the first one of a choice and its last don't."""
    for field in (b'"content":"', b'"text":"'):
        _, found, text = event.partition(field)
        if found:
            return not text.startswith(b'"')
    return False
