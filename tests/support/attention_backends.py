"""Runs a test under each attention backend, and tells which ops ran.

A ``conftest.py`` imports the fixture.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sensorium.ops import extension

#: Ops that every decoder calls in every step.
DECODER = ("paged_attention", "rope_store_kv", "rms_norm", "add_rms_norm", "silu_mul")
#: What a tower calls.
TOWER = ("varlen_attention",)


class Attention:
    """A backend that is forced, and what has been called since."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._before = extension.CALLS.copy()

    def assert_ran(self, *ops: str, device: str = "cpu") -> None:
        """These ops of the extension ran under "paged"; none at all under "reference"."""
        ran = Counter(extension.CALLS)
        ran.subtract(self._before)
        if self.name == "paged":
            missing = [op for op in ops if ran[f"{device}.{op}"] <= 0]
            assert not missing, f"not by the extension: {missing}; it ran {+ran}"
        else:
            assert not +ran, f"the extension ran {+ran}"


@pytest.fixture(params=["paged", "reference"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Attention:
    """Each backend, forced."""
    if request.param == "paged" and (reason := extension.lack(torch.device("cpu"), torch.float32)):
        pytest.skip(f"no extension: {reason}")
    monkeypatch.setenv("SENSORIUM_ATTENTION", request.param)
    return Attention(request.param)
