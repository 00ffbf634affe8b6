"""Answers that are still being generated whatever a test does meanwhile, on the fastest machine.

They are of 60,000 tokens, and a test ends them after a few; nothing here waits for a time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent import futures
from typing import Any

from sensorium import LLM, SamplingParams

ENDLESS = SamplingParams(temperature=0.0, max_tokens=60_000, ignore_eos=True)
#: For the engine: a context that holds one, and pages enough.
ROOM: dict[str, Any] = {"max_model_len": 65_536, "kv_cache_memory_bytes": 2**26}
#: A bound for what must come some time.
PATIENCE_S = 100.0
_WAITS_IN = futures.Future.result.__code__


def wait_for_tokens(llm: LLM, num_tokens: int = 3) -> None:
    """Returns when the engine has generated so many tokens more than it had."""
    goal = llm.stats().num_generated_tokens + num_tokens
    deadline_s = time.monotonic() + PATIENCE_S
    while llm.stats().num_generated_tokens < goal:
        assert time.monotonic() < deadline_s, "nothing is being generated"
        time.sleep(0.01)


def interrupt_while_generating(llm: LLM) -> threading.Thread:
    """Sends Ctrl-C to this process once its main thread waits for tokens that come."""

    def interrupt() -> None:
        wait_for_tokens(llm)
        while not _is_waiting(threading.main_thread()):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


def _is_waiting(thread: threading.Thread) -> bool:
    """Whether the thread is somewhere below ``Future.result``."""
    assert thread.ident is not None
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code is _WAITS_IN:
            return True
        frame = frame.f_back
    return False
