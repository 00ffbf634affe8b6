"""The extension is there wherever it should be: other tests of it skip where it isn't."""

from __future__ import annotations

import json
import platform
import re
import subprocess

import pytest
import torch
from extension_cases import require

from sensorium.ops import extension

#: Reasons of ``csrc/build.py`` that are this machine's and nobody's fault.
EXCUSES = (
    "SENSORIUM_BUILD_EXT=0",
    "there is no C++ compiler on the path",
    "there is no objdump (binutils) on the path",
    "the extension is built on Linux only",
)


def test_the_cpu_library_is_built_and_loads() -> None:
    record = extension.FOLDER / "built.json"
    assert record.exists(), "the extension was never built: python csrc/build.py FOLDER"
    reason = json.loads(record.read_text())["reason"]
    if reason.startswith(EXCUSES):
        pytest.skip(f"it can't be: {reason}")
    for dtype in extension.DTYPES["cpu"]:
        assert extension.lack(torch.device("cpu"), dtype) is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has these registers")
def test_wide_registers_are_used_by_code_of_their_level_alone() -> None:
    """An old processor runs the same library: what it enters may hold no instruction of others."""
    require("cpu", torch.float32)
    library = extension.FOLDER / extension.LIBRARIES["cpu"]
    code = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", library],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    uses: dict[str, set[str]] = {"ymm": set(), "zmm": set()}
    name = ""
    for line in code.splitlines():
        if found := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = found[1]
        for register in uses:
            if f"%{register}" in line:
                uses[register].add(name)
    for register, levels in {"ymm": "avx2|avx512|avx512bf16", "zmm": "avx512|avx512bf16"}.items():
        assert uses[register], f"no {register} at all: is the disassembly read?"
        strays = [n for n in uses[register] if not re.search(rf"sensorium::({levels})::", n)]
        assert not strays, f"{register} outside of its level: {strays}"


@pytest.mark.gpu
def test_the_cuda_library_is_built_and_runs() -> None:
    for dtype in extension.DTYPES["cuda"]:
        assert extension.lack(torch.device("cuda", 0), dtype) is None
