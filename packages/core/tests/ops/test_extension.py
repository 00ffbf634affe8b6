"""What is said where the extension is missing, doesn't load, or doesn't fit the machine."""

from __future__ import annotations

import json
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from extension_cases import at_level, cpu_levels, require

from sensorium.errors import ConfigError
from sensorium.ops import (
    AttentionLayout,
    AttentionSpec,
    PagedAttention,
    ReferenceAttention,
    choose_attention,
    extension,
)

CPU = AttentionLayout(torch.device("cpu"), torch.float32, head_size=64, page_size=16)
CUDA = replace(CPU, device=torch.device("cuda", 0), dtype=torch.bfloat16)
SPEC = AttentionSpec(1.0)


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test finds out for itself; what the process knows already stays as it is."""
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)
    for name in ("load", "lack", "_cuda_lack"):
        monkeypatch.setattr(extension, name, getattr(extension, name).__wrapped__)


def start_up(layout: AttentionLayout = CPU) -> str:
    """What the start-up line says of attention."""
    return choose_attention([SPEC], layout).describe()


# --- the CPU's library --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "it was built without its cpu library"),
        ({"reason": "", "made_of": {}}, "it was built without its cpu library"),
        (
            {"reason": "SENSORIUM_BUILD_EXT=0", "made_of": {}},
            "it was built without its cpu library (SENSORIUM_BUILD_EXT=0)",
        ),
    ],
)
def test_a_library_that_was_not_built(
    record: dict[str, Any] | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "FOLDER", tmp_path)
    if record is not None:
        (tmp_path / "built.json").write_text(json.dumps(record))
    assert start_up().startswith("reference [")
    assert start_up().endswith(f"paged lacks this machine or dtype: {said}]")
    assert not extension.serves(torch.zeros(1))
    assert extension.load().cpu_level == ""


def test_a_library_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "FOLDER", tmp_path)
    (tmp_path / "libsensorium_cpu.so").write_text("not a library")
    line = start_up()
    assert "its cpu library doesn't load (libsensorium_cpu.so: file too short)" in line
    assert str(tmp_path) not in line
    assert not extension.serves(torch.zeros(1))


def test_a_forced_backend_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "FOLDER", tmp_path)
    monkeypatch.setenv("SENSORIUM_ATTENTION", "paged")
    with pytest.raises(ConfigError, match=r"is 'paged', but that backend lacks .* without its cpu"):
        choose_attention([SPEC], CPU)


@pytest.mark.parametrize("level", cpu_levels())
def test_the_instruction_set_of_this_processor_is_named(level: str) -> None:
    with at_level(level):
        assert extension.load().cpu_level == level
        assert start_up().startswith(f"paged ({level})")
    assert extension.load().cpu_level == cpu_levels()[-1], "the library chose the best by itself"


# --- CUDA's library -----------------------------------------------------------------------


class Library:
    """Stands for the CUDA library: what a kernel's first launch answered."""

    def __init__(self, code: int) -> None:
        self.code = code

    def sensorium_cuda_error(self, index: int) -> int:
        """The answer."""
        assert index == 0
        return self.code


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU beside libraries that load; it answers what it is told to."""

    def answers(code: int) -> None:
        monkeypatch.setattr(extension, "load", lambda: extension.Loaded({}, "avx2"))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (6, 1))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Old GPU")
        cdll = types.SimpleNamespace(CDLL=lambda path: Library(code))
        monkeypatch.setattr(extension, "ctypes", cdll)

    return answers


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (35, "its driver is older than the extension's CUDA runtime needs"),
        (100, "the extension's CUDA runtime finds no device"),
        (209, "the extension holds no code for its compute capability"),
        (222, "its driver is too old to compile the extension's PTX"),
        (999, "CUDA's error 999"),
    ],
)
def test_a_gpu_or_driver_that_does_not_fit(gpu: Any, code: int, why: str) -> None:
    gpu(code)
    said = f"it can't run on Old GPU (sm_61): {why}"
    assert extension.lack(CUDA.device, CUDA.dtype) == said
    choice = choose_attention([SPEC], CUDA)
    assert isinstance(choice.of[SPEC], ReferenceAttention)
    assert choice.describe().startswith("reference [")
    assert said in choice.describe()


def test_a_gpu_that_fits_is_served(gpu: Any) -> None:
    gpu(0)
    choice = choose_attention([SPEC], CUDA)
    assert isinstance(choice.of[SPEC], PagedAttention)
    assert choice.describe().startswith("paged")


@pytest.mark.parametrize(
    ("layout", "lack"),
    [
        (replace(CUDA, head_size=72), "heads of size 72 on CUDA (compiled are 64, 80, 96, 128"),
        (replace(CUDA, page_size=32), "pages of 32 tokens on CUDA (compiled is 16)"),
        (replace(CUDA, dtype=torch.float32), "computes in float16 and bfloat16 on cuda"),
        (replace(CUDA, device=torch.device("xpu")), "it is not built for xpu"),
    ],
)
def test_what_is_not_compiled_is_named(gpu: Any, layout: AttentionLayout, lack: str) -> None:
    gpu(0)
    assert lack in start_up(layout)
    assert start_up(layout).startswith("reference")


def test_without_a_device_the_cuda_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert extension.load().lacks["cuda"] == "torch sees no CUDA device"


def test_without_the_cpu_library_there_is_no_cuda_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It defines the ops of both."""
    monkeypatch.setattr(extension, "FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    lacks = extension.load().lacks
    assert lacks["cuda"] == lacks["cpu"] == "it was built without its cpu library"


def test_a_cuda_library_that_was_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel of somebody with a GPU but no nvcc."""
    require("cpu", torch.float32)
    source = extension.FOLDER / extension.LIBRARIES["cpu"]
    (tmp_path / source.name).symlink_to(source)
    (tmp_path / "built.json").write_text('{"reason": "there is no nvcc on the path"}')
    monkeypatch.setattr(extension, "FOLDER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    line = start_up(CUDA)
    assert line.startswith("reference [")
    assert "it was built without its cuda library (there is no nvcc on the path)" in line
    assert start_up(CPU).startswith("paged")


# --- switched off -------------------------------------------------------------------------


def test_the_reference_switches_all_of_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_ATTENTION", "reference")
    assert not extension.serves(torch.zeros(1))
    assert start_up() == "reference"
