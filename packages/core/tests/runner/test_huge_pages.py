"""Weights that move stay what they are."""

from __future__ import annotations

import mmap

import pytest
import torch
from torch import nn

from sensorium.runner.huge_pages import move_into_huge_pages


class Tied(nn.Module):
    """Two matrices that are one, and one of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.arange(35.0).view(5, 7), requires_grad=False)
        self.second = self.first
        self.other = nn.Parameter(torch.ones(3, dtype=torch.bfloat16), requires_grad=False)


def test_parameters_keep_values_and_ties_and_lie_together() -> None:
    module = Tied()
    before = {name: p.clone() for name, p in module.state_dict().items()}
    move_into_huge_pages(module)
    for name, wanted in before.items():
        assert torch.equal(module.state_dict()[name], wanted)
    assert module.first is module.second
    assert module.first.is_contiguous()
    places = sorted((module.first.data_ptr(), module.other.data_ptr()))
    assert places[1] - places[0] in (64, 192)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        assert places[0] % 2**21 == 0


def test_a_system_without_huge_pages_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    module = Tied()
    before = module.first.data_ptr()
    move_into_huge_pages(module)
    assert module.first.data_ptr() == before
