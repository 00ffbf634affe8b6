"""Errors let go of what their frames hold.

An exception refers to the frames that it passed through, and these to their variables: a file, a
decoded item. The budget has got those bytes back, but they would stay in memory for as long as a
caller keeps the error.
"""

from __future__ import annotations

import contextlib
import inspect

_MAY_BE_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def clear_frames(error: BaseException) -> None:
    """Empties the finished frames of an error's traceback, and of the errors that it came from.

    The tracebacks stay as they are. Generators and coroutines are left alone: clearing one that
    waits would end it.
    """
    chain: list[BaseException | None] = [error]
    seen: set[int] = set()
    while chain:
        found = chain.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        chain += [found.__cause__, found.__context__]
        trace = found.__traceback__
        while trace is not None:
            if not trace.tb_frame.f_code.co_flags & _MAY_BE_SUSPENDED:
                with contextlib.suppress(RuntimeError):  # it is running
                    trace.tb_frame.clear()
            trace = trace.tb_next
