"""Captures work on the device as a CUDA graph, to replay it with one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

#: What ``torch.cuda.graph_pool_handle`` gives, whose type differs by release.
Pool: TypeAlias = Any


def capture(work: Callable[[], object], pool: Pool) -> torch.cuda.CUDAGraph:
    """The graph of ``work``, which is run once before, and captured then.

    Args:
        pool: the memory that graphs share; only one of them may run at a time.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # libraries choose kernels and allocate now, not while capturing
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    return graph
