"""How an answer's work runs: watched for a client that goes away, for time, and for failures.

Knows asyncio and ASGI; neither the engine nor OpenAI's shapes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
_STARTS_A_TURN = 16
_DONE = b"data: [DONE]\n\n"
#: An exception → the event that tells it inside a stream.
TellError = Callable[[Exception], bytes]


class ClientGone(Exception):
    """The client closed the connection; nobody waits for the answer."""


class ServerEnding(Exception):
    """The server ends and doesn't wait any longer for what runs."""


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Runs ``work``; a client that goes away cancels it and is waited for.

    Raises:
        ClientGone: it went away first.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for other in (task, watch):
            other.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def last(outputs: AsyncIterator[T]) -> T:
    """The last output of a request."""
    found: list[T] = []
    async with aclosing(outputs) as stream:  # type: ignore[type-var]
        async for output in stream:
            found = [output]
    return found[0]


async def all_of(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs all at once; the first that fails ends the others."""
    tasks: list[asyncio.Future[T]] = []
    try:
        for number, work in enumerate(works):
            await _give_way(number)
            tasks.append(asyncio.ensure_future(work))
        return list(await asyncio.gather(*tasks))
    finally:
        for work in works[len(tasks) :]:
            work.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _give_way(number: int) -> None:
    """Lets other requests have a turn of the event loop between the beginnings of many works."""
    if number % _STARTS_A_TURN == _STARTS_A_TURN - 1:
        await asyncio.sleep(0)


async def merged(streams: Sequence[AsyncIterator[T]]) -> AsyncIterator[tuple[int, T]]:
    """What several streams yield, as it comes, with the stream's number.

    A stream is asked for its next only when its last was taken. The first that fails ends all.
    """
    waiting: dict[asyncio.Future[T], int] = {}
    try:
        for number, stream in enumerate(streams):
            await _give_way(number)
            waiting[_next(stream)] = number
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in sorted(done, key=waiting.__getitem__):
                number = waiting.pop(future)
                try:
                    output = future.result()
                except StopAsyncIteration:
                    continue
                yield number, output
                waiting[_next(streams[number])] = number
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]


def _next(stream: AsyncIterator[T]) -> asyncio.Future[T]:
    return asyncio.ensure_future(_awaited(anext(stream)))


async def _awaited(work: Awaitable[T]) -> T:
    return await work


class EventStream(Response):
    """Server-sent events of one answer; ends with ``data: [DONE]``, also behind an error.

    Args:
        events: yields whole events; closed when the client goes away.
        deadline_s: of the event loop's clock; None: no limit.
        tell_error: how an exception is told to the client.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        deadline_s: float | None,
        tell_error: TellError,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._deadline_s = deadline_s
        self._tell_error = tell_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await until_gone(receive, self._pump(send))
        except ClientGone:
            scope["state"].setdefault("log", {})["gone"] = True
        except asyncio.CancelledError:  # uvicorn's, when the time of ``--shutdown-timeout`` is over
            await self._end_by_error(send, ServerEnding())

    async def _pump(self, send: Send) -> None:
        try:
            async with asyncio.timeout_at(self._deadline_s), aclosing(self._events) as events:  # type: ignore[type-var]
                async for data in events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception as error:
            await self._end_by_error(send, error)
        else:
            await send({"type": "http.response.body", "body": _DONE, "more_body": False})

    async def _end_by_error(self, send: Send, error: Exception) -> None:
        told = self._tell_error(error) + _DONE
        await send({"type": "http.response.body", "body": told, "more_body": False})
