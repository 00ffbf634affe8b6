"""Capturing on the CPU: the ops of torch that some work consists of, done again at each replay.

As a CUDA graph does: on the same memory, whatever the host has come to know since. So a number that
the work reads on the host stays what it was while recording. The first replay is what is recorded:
ops check on the CPU what they are given, and there is nothing to be given before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorded(TorchDispatchMode):
    """In a graph's place, and in that of ``capture``.

    Args:
        work: what is recorded.
    """

    def __init__(self, work: Callable[[], object], pool: object = None) -> None:
        super().__init__()
        self._ops: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self._work = work

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping would import it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host waits for a number"
        out = func(*args, **(kwargs or {}))
        self._ops.append((func, args, kwargs or {}, _tensors(out)))
        return out

    @torch.inference_mode()
    def replay(self) -> None:
        """Does it all, or does it again, into the memory where the results were."""
        if not self._ops:
            with self:
                self._work()
            assert self._ops, "nothing was asked of torch"
            return
        for func, args, kwargs, results in self._ops:
            again = _tensors(func(*args, **kwargs))
            for kept, new in zip(results, again, strict=True):
                if kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
