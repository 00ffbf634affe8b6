"""What tests of the compiled ops share: where they run, and how far they may be off."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sensorium.ops import extension

#: Devices with the extension's dtypes; CUDA's carry the marker.
PLACES = [
    pytest.param("cpu", torch.float32, id="cpu-float32"),
    pytest.param("cpu", torch.bfloat16, id="cpu-bfloat16"),
    pytest.param("cuda", torch.bfloat16, id="cuda-bfloat16", marks=pytest.mark.gpu),
    pytest.param("cuda", torch.float16, id="cuda-float16", marks=pytest.mark.gpu),
]
#: Half a unit in the last place of the result, and as much again for the rounded operands that a
#: sum is made of (weights are rounded before they meet the values); float32 by its sums' length.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def require(device: str, dtype: torch.dtype) -> None:
    """Skips where the extension isn't built (``test_built.py`` fails if it should be)."""
    if reason := extension.lack(torch.device(device), dtype):
        pytest.skip(f"no extension: {reason}")


def compiled(op: str, device: str) -> bool:
    """Whether the extension has ``op`` there: some are the CPU's alone."""
    return device == "cpu" or op not in ("linear", "log_spectra")


def close(out: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """Within the dtype's tolerance of values in float64 whose size is about one."""
    assert out.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)


def cpu_levels() -> list[str]:
    """The instruction sets that the library holds and this processor has, the best one last."""
    before = extension.load().cpu_level
    if not before:
        return []
    levels = [level for level in ("plain", "avx2", "avx512", "avx512bf16") if _force(level)]
    assert _force(before)
    return levels


@contextlib.contextmanager
def at_level(level: str) -> Iterator[None]:
    """Uses another instruction set for a while."""
    before = extension.load().cpu_level
    assert _force(level)
    try:
        yield
    finally:
        assert _force(before)


@contextlib.contextmanager
def general_cuda_kernels() -> Iterator[None]:
    """Without the kernels that only one generation of GPUs has."""
    library = ctypes.CDLL(str(extension.FOLDER / extension.LIBRARIES["cuda"]))
    library.sensorium_cuda_general(1)
    try:
        yield
    finally:
        library.sensorium_cuda_general(0)


def _force(level: str) -> bool:
    library = ctypes.CDLL(str(extension.FOLDER / extension.LIBRARIES["cpu"]))
    return bool(library.sensorium_cpu_force(level.encode()))
