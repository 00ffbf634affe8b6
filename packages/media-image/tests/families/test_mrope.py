"""Positions on three axes, against transformers'."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from sensorium.errors import PluginError
from sensorium.types import MediaPlan, MediaSpan, PreparedItem
from sensorium_media_image.families.mrope import mrope_positions

IMAGE_ID, START_ID = 7, 5


def item(grid: tuple[int, ...], num_tokens: int, index: int = 0) -> PreparedItem:
    plan = MediaPlan(num_tokens=num_tokens, token_ids=(IMAGE_ID,) * num_tokens, grid=grid)
    return PreparedItem("image", index, bytes(32), plan, {})


def prompt(
    texts: list[int], grids: list[tuple[int, int, int]]
) -> tuple[list[int], list[MediaSpan], list[PreparedItem]]:
    """Text of the given lengths with an item between each two, and its parts."""
    ids, spans, items = [1] * texts[0], [], []
    for i, grid in enumerate(grids):
        length = int(np.prod(grid))
        spans.append(MediaSpan(i, (0, length), len(ids), length))
        items.append(item(grid, length, i))
        ids += [IMAGE_ID] * length + [1] * texts[i + 1]
    return ids, spans, items


def transformers_positions(
    ids: list[int], grids: list[tuple[int, int, int]]
) -> tuple[torch.Tensor, int]:
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    model = Qwen2_5_VLModel.__new__(Qwen2_5_VLModel)
    torch.nn.Module.__init__(model)
    model.config = Qwen2_5_VLConfig()
    types = torch.tensor([[int(i == IMAGE_ID) for i in ids]])
    patches = torch.tensor([(t, 2 * h, 2 * w) for t, h, w in grids])
    positions, deltas = model.get_rope_index(torch.tensor([ids]), types, image_grid_thw=patches)
    return positions[:, 0], int(deltas[0])


@pytest.mark.parametrize("seed", range(20))
def test_positions_are_those_of_transformers_for_images(seed: int) -> None:
    draw = random.Random(seed)
    grids = [(1, draw.randint(1, 9), draw.randint(1, 9)) for _ in range(draw.randint(1, 4))]
    texts = [draw.randint(0, 5), *(draw.randint(1, 6) for _ in grids)]
    ids, spans, items = prompt(texts, grids)
    positions, delta = mrope_positions(len(ids), spans, items)
    expected, expected_delta = transformers_positions(ids, grids)
    assert np.array_equal(positions, expected.numpy())
    assert delta == expected_delta


def test_items_may_touch() -> None:
    """transformers takes touching images for one; each has a grid of its own."""
    ids, spans, items = prompt([1, 0, 1], [(1, 2, 2), (1, 1, 3)])
    positions, delta = mrope_positions(len(ids), spans, items)
    assert positions.tolist() == [
        [0, 1, 1, 1, 1, 3, 3, 3, 6],
        [0, 1, 1, 2, 2, 3, 3, 3, 6],
        [0, 1, 2, 1, 2, 3, 4, 5, 6],
    ]
    assert delta == 7 - 9


def test_text_follows_the_largest_position_of_any_axis() -> None:
    ids, spans, items = prompt([0, 2], [(5, 1, 2)])
    positions, delta = mrope_positions(len(ids), spans, items)
    assert positions[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6]
    assert delta == 7 - 12


def test_text_alone_counts_up_on_all_axes() -> None:
    positions, delta = mrope_positions(4, [], [])
    assert positions.tolist() == [[0, 1, 2, 3]] * 3
    assert delta == 0


def test_tokens_around_the_rows_count_as_text() -> None:
    plan = MediaPlan(2, (START_ID, IMAGE_ID, IMAGE_ID, 6), b"\0\1\1\0", grid=(1, 1, 2))
    span = MediaSpan(0, (0, 2), 1, 4, plan.is_embed)
    positions, delta = mrope_positions(6, [span], [PreparedItem("image", 0, b"", plan, {})])
    assert positions.tolist() == [[0, 1, 2, 2, 4, 5], [0, 1, 2, 2, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert delta == 0


def test_an_item_without_a_grid_counts_as_text() -> None:
    positions, delta = mrope_positions(5, [MediaSpan(0, (0, 3), 1, 3)], [item((), 3)])
    assert positions.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert delta == 0


@pytest.mark.parametrize(
    ("grid", "mask", "message"),
    [
        ((1, 2, 2), None, r"3 embedding rows and the grid \(1, 2, 2\)"),
        ((3,), None, "3 embedding rows and the grid"),
        ((1, 1, 2), b"\1\0\1", "other tokens between its embedding rows"),
    ],
)
def test_a_plan_that_contradicts_itself_is_its_plugins_fault(
    grid: tuple[int, ...], mask: bytes | None, message: str
) -> None:
    rows = 3 if mask is None else mask.count(1)
    plan = MediaPlan(rows, (IMAGE_ID,) * 3, mask, grid)
    span = MediaSpan(0, (0, rows), 0, 3, mask)
    with pytest.raises(PluginError, match=message):
        mrope_positions(3, [span], [PreparedItem("image", 0, b"", plan, {})])
