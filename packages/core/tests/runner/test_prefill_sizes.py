"""Which steps of few tokens are captured, and how their sequences are told to the device."""

from __future__ import annotations

import pytest

from sensorium.runner.prefill_graphs import MAX_SEQS, _borders, prefill_sizes
from sensorium.runner.step_memory import fitting


@pytest.mark.parametrize(
    ("budget", "sizes"),
    [
        (8192, [16, 32, 64, 128, 192, 256, 384, 512]),
        (512, [16, 32, 64, 128, 192, 256, 384, 512]),
        (100, [16, 32, 64, 100]),
        (16, [16]),
        (5, [5]),
    ],
)
def test_no_graph_is_larger_than_a_step_can_be(budget: int, sizes: list[int]) -> None:
    assert prefill_sizes(budget) == sizes
    assert fitting(sizes, min(budget, 512)) == sizes[-1]
    assert fitting(sizes, 1) == sizes[0]
    assert fitting(sizes, sizes[-1] + 1) is None


def test_sequences_are_followed_by_empty_ones() -> None:
    borders = _borders(((5, 9), (1, 30), (10, 10)))
    assert borders[: MAX_SEQS + 1].tolist() == [0, 5, 6, *[16] * (MAX_SEQS - 2)]
    assert borders[MAX_SEQS + 1 :].tolist() == [9, 30, 10, *[0] * (MAX_SEQS - 3)]
    full = _borders(((1, 1),) * MAX_SEQS)
    assert full.tolist() == [*range(MAX_SEQS + 1), *[1] * MAX_SEQS]
