"""The extension is there wherever it should be: other tests of it skip where it isn't."""

from __future__ import annotations

import json

import pytest
import torch

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


@pytest.mark.gpu
def test_the_cuda_library_is_built_and_runs() -> None:
    for dtype in extension.DTYPES["cuda"]:
        assert extension.lack(torch.device("cuda", 0), dtype) is None
