"""Media threads, each of which runs torch without helper threads.

torch distributes one operation over a team of as many threads as there are cores, and every thread
that computes has a team of its own. Sixteen media threads would then have 256 helpers, which would
take CPU time from each other and, on the CPU, from the engine.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def lone_workers(num_threads: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads have no helpers; other threads keep theirs."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix=name, initializer=_work_alone)


def _work_alone() -> None:
    # A thread copies torch's global number when it first asks, so that must happen first.
    torch.get_num_threads()
    # OpenMP's number is each thread's own.
    threadpool_limits(1, user_api="openmp")
