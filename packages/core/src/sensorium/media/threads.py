"""Threads that work beside each other, and therefore each alone.

torch deals one operation out to a team of threads, as many as there are cores, and every thread
that computes has a team of its own. Sixteen threads that prepare media would have 256 helpers
then, which burn what they were to share (and on the CPU the engine's own team with it).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def lone_workers(num_threads: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads have no helpers; what other threads have stays as it is."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix=name, initializer=_work_alone)


def _work_alone() -> None:
    # A thread takes torch's number for all over when it first asks, so that must be over.
    torch.get_num_threads()
    # OpenMP's number is each thread's own.
    threadpool_limits(1, user_api="openmp")
