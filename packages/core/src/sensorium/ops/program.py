"""``Program``: a run of CPU ops, recorded once and replayed without torch or Python.

What CUDA graphs are to a GPU. A small model's decode step is some hundred ops of microseconds, and
each costs as much again in overhead: Python, torch's dispatcher, waking threads. A program has none
of that overhead. It reads its inputs, weights and pages where they lay when it was recorded, so
they must stay there; its caller writes new inputs into the same tensors.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sensorium.ops import extension

#: The ops that can be recorded.
RECORDED = frozenset(
    f"sensorium::{name}"
    for name in (
        "linear",
        "rms_norm",
        "add_rms_norm",
        "silu_mul",
        "rope_store_kv",
        "store_kv",
        "paged_attention",
    )
)


class NotRecordedError(Exception):
    """The function does something that can't be recorded."""


class Program:
    """What a function does with the extension's ops on the CPU.

    Args:
        function: called once, here. It may use the ops of ``RECORDED``, and views.

    Attributes:
        result: what the function returned, a tensor that ``run`` writes anew.

    Raises:
        NotRecordedError: the function does something else with tensors, or doesn't return the whole
            result of an op.
    """

    def __init__(self, function: Callable[[], Tensor]) -> None:
        library = _library()
        before = Counter(extension.CALLS)
        library.sensorium_record_begin()
        try:
            with _OnlyRecorded():  # type: ignore[no-untyped-call]
                result = function()
            if result.nbytes != result.untyped_storage().nbytes() or not result.is_contiguous():
                raise NotRecordedError("its result is a part or another view of an op's result")
        except BaseException:
            library.sensorium_record_cancel()
            raise
        num_bytes = ctypes.c_int64()
        handle = library.sensorium_record_end(result.data_ptr(), ctypes.byref(num_bytes))
        if handle is None:
            raise NotRecordedError("its result is no op's result")
        self._handle = handle
        weakref.finalize(self, library.sensorium_program_free, handle)
        self._calls = extension.CALLS - before
        self._run = library.sensorium_program_run
        self._memory = torch.empty(num_bytes.value, dtype=torch.uint8)
        place = library.sensorium_program_place(handle, self._memory.data_ptr())
        kept = self._memory[place : place + result.nbytes]
        self.result = kept.view(result.dtype).view(result.shape)
        self.result.copy_(result)

    def run(self) -> Tensor:
        """Replays the program; returns ``result``."""
        self._run(self._handle)
        extension.CALLS.update(self._calls)
        return self.result


class _OnlyRecorded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses every op that neither is recorded nor makes a view."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping would import torch._dynamo in the first step, which takes about two seconds.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name not in RECORDED and not _is_view(func._schema, args, result):
            raise NotRecordedError(f"it calls {func._schema.name}")
        return result


def _is_view(schema: Any, args: Sequence[Any], result: Any) -> bool:
    """Whether an op wrote nothing, and gave tensors that lie where its arguments lie.

    Its schema is not enough: some ops, ``reshape`` among them, copy only where they must.
    """
    given = {_memory_of(x) for x in tree_leaves(args) if isinstance(x, Tensor)}
    made = tree_leaves(result)
    written = any(
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in schema.arguments
    )
    return not written and all(isinstance(x, Tensor) and _memory_of(x) in given for x in made)


def _memory_of(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(extension.FOLDER / extension.LIBRARIES["cpu"]))
    handle, address = ctypes.c_void_p, ctypes.c_void_p
    library.sensorium_record_end.restype = handle
    library.sensorium_record_end.argtypes = [address, ctypes.POINTER(ctypes.c_int64)]
    library.sensorium_program_place.restype = ctypes.c_int64
    library.sensorium_program_place.argtypes = [handle, address]
    for function in (library.sensorium_program_run, library.sensorium_program_free):
        function.restype = None
        function.argtypes = [handle]
    return library
