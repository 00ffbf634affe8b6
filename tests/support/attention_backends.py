"""Runs a test under each attention backend, and tells which ops ran.

A ``conftest.py`` imports the fixture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

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


def engines(options: Mapping[str, Any], *, plain: tuple[str, ...]) -> pytest.MarkDecorator:
    """Parametrizes a test by "attention" and "options".

    Args:
        options: an engine's, by name; each is tried with the extension.
        plain: names of those that are tried in plain torch as well. What the scheduler and the
            caches do is the same under both: a few engines tell whether the backend fits in.
    """
    named = [("paged", name) for name in options] + [("reference", name) for name in plain]
    cases = [pytest.param(b, options[name], id=f"{b}-{name}") for b, name in named]
    return pytest.mark.parametrize(("attention", "options"), cases, indirect=["attention"])


@pytest.fixture(params=["paged", "reference"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Attention:
    """Each backend, forced."""
    if request.param == "paged" and (reason := extension.lack(torch.device("cpu"), torch.float32)):
        pytest.skip(f"no extension: {reason}")
    monkeypatch.setenv("SENSORIUM_ATTENTION", request.param)
    return Attention(request.param)
