"""The compiled extension: loads its libraries, and tells where they can be used.

The libraries lie in ``sensorium/_extension`` beside ``built.json``, which says why one was not
built. Loading registers the ops ``torch.ops.sensorium.*`` for a device; if a library is missing, or
this machine can't run it, the reason is kept and plain torch is used.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sensorium.ops import fakes

#: What forces an attention backend; "reference" switches off all of the extension.
VARIABLE = "SENSORIUM_ATTENTION"
FOLDER = Path(__file__).resolve().parent.parent / "_extension"
LIBRARIES = {"cpu": "libsensorium_cpu.so", "cuda": "libsensorium_cuda.so"}
DTYPES = {
    "cpu": (torch.float32, torch.bfloat16),
    "cuda": (torch.float16, torch.bfloat16),
}
#: How often each op was called, by "device.op": for tests and for debugging.
CALLS: Counter[str] = Counter()

#: What CUDA answers where the library can't run: the code and what it means (cudaError_t).
_CUDA_ERRORS = {
    35: "its driver is older than the extension's CUDA runtime needs",
    100: "the extension's CUDA runtime finds no device",
    209: "the extension holds no code for its compute capability",
    222: "its driver is too old to compile the extension's PTX",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The libraries as they were found.

    Attributes:
        lacks: device type → why its library is not used; a type that is missing works.
        cpu_level: the instruction set that the CPU's kernels use; "" without them.
    """

    lacks: dict[str, str]
    cpu_level: str = ""


@functools.cache
def load() -> Loaded:
    """Loads what is there, once a process."""
    lacks: dict[str, str] = {}
    level = ""
    for device_type in LIBRARIES:
        if device_type == "cuda" and not torch.cuda.is_available():
            lacks["cuda"] = "torch sees no CUDA device"
        elif device_type == "cuda" and "cpu" in lacks:
            lacks["cuda"] = lacks["cpu"]  # the CPU's library defines the ops of both
        else:
            library, reason = _load_library(device_type)
            if library is None:
                lacks[device_type] = reason
            elif device_type == "cpu":
                library.sensorium_cpu_level.restype = ctypes.c_char_p
                level = library.sensorium_cpu_level().decode()
                fakes.register()
    return Loaded(lacks, level)


@functools.cache
def lack(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the extension can't be used on ``device`` in ``dtype``, in words; None if it can."""
    reason = load().lacks.get(device.type)
    if device.type not in LIBRARIES:
        return f"it is not built for {device.type}"
    if reason is not None:
        return reason
    if dtype not in DTYPES[device.type]:
        names = " and ".join(str(t).removeprefix("torch.") for t in DTYPES[device.type])
        return f"it computes in {names} on {device.type}"
    if device.type == "cuda":
        return _cuda_lack(torch.cuda.current_device() if device.index is None else device.index)
    return None


def serves(x: Tensor) -> bool:
    """Whether the extension's ops take ``x``: library, dtype, and not switched off."""
    return os.environ.get(VARIABLE) != "reference" and lack(x.device, x.dtype) is None


def count(x: Tensor, op: str) -> None:
    """Adds a call of ``op`` to ``CALLS``."""
    CALLS[f"{x.device.type}.{op}"] += 1


def _load_library(device_type: str) -> tuple[ctypes.CDLL | None, str]:
    path = FOLDER / LIBRARIES[device_type]
    if not path.exists():
        return None, f"it was built without its {device_type} library{_built_reason()}"
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
        return ctypes.CDLL(str(path)), ""
    except OSError as error:
        # torch hides the loader's text, which begins with the path; messages must not hold paths.
        text = str(error.__cause__ or error)
        sentence = text.replace(str(FOLDER) + os.sep, "").splitlines()[0]
        return None, f"its {device_type} library doesn't load ({sentence})"


def _built_reason() -> str:
    record = FOLDER / "built.json"
    reason = json.loads(record.read_text())["reason"] if record.exists() else ""
    return f" ({reason})" if reason else ""


@functools.cache
def _cuda_lack(index: int) -> str | None:
    """Asks the library whether a kernel of it can run on device ``index``."""
    library = ctypes.CDLL(str(FOLDER / LIBRARIES["cuda"]))
    error = int(library.sensorium_cuda_error(index))
    if error == 0:
        return None
    major, minor = torch.cuda.get_device_capability(index)
    why = _CUDA_ERRORS.get(error, f"CUDA's error {error}")
    return f"it can't run on {torch.cuda.get_device_name(index)} (sm_{major}{minor}): {why}"
