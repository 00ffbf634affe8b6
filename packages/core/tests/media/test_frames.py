"""Frames of errors are emptied, but for those that still run or wait."""

from __future__ import annotations

import asyncio
import traceback
import weakref

import pytest

from sensorium.media.frames import clear_frames


class Large:
    """Something that a frame holds."""


def fail(seen: weakref.WeakSet[Large], error: Exception) -> None:
    held = Large()
    seen.add(held)
    raise error


def test_an_error_and_its_causes_let_go_and_keep_their_tracebacks() -> None:
    seen: weakref.WeakSet[Large] = weakref.WeakSet()

    def wrap() -> None:
        held = Large()
        seen.add(held)
        try:
            fail(seen, ValueError("inner"))
        except ValueError as error:
            raise KeyError("outer") from error

    with pytest.raises(KeyError) as caught:
        wrap()
    assert len(seen) == 2
    clear_frames(caught.value)
    assert len(seen) == 0
    lines = "".join(traceback.format_exception(caught.value))
    assert "in wrap" in lines
    assert "in fail" in lines


def test_causes_in_a_circle_end() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    clear_frames(first)
    assert first.__cause__ is second


async def test_a_coroutine_that_caught_the_error_and_waits_goes_on() -> None:
    """An error that a plugin raises again and again passes through many requests."""
    error = ValueError("raised by all")
    goes_on = asyncio.Event()

    async def request() -> str:
        kept = "kept"
        try:
            raise error
        except ValueError:
            await goes_on.wait()
        return kept

    waiting = asyncio.ensure_future(request())
    await asyncio.sleep(0)
    clear_frames(error)
    goes_on.set()
    assert await waiting == "kept"
