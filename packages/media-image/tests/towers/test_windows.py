"""The windows of Qwen2.5-VL's tower, against transformers'."""

from __future__ import annotations

import pytest
import torch
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)

from sensorium_media_image.towers.windows import window_layout

GRIDS = [(1, 2, 2), (1, 8, 8), (1, 16, 8), (1, 14, 22), (1, 2, 30), (3, 10, 12), (2, 8, 18)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("window_blocks", [1, 2, 4])
def test_layouts_are_those_of_transformers(grid: tuple[int, int, int], window_blocks: int) -> None:
    layout = window_layout(grid, 2, window_blocks)
    thw = torch.tensor([grid])
    index, borders = get_vision_window_index(thw, 2, window_blocks * 2 * 14, 14)
    assert torch.equal(layout.blocks, index)
    assert list(layout.window_lengths) == borders.diff().tolist()
    assert list(layout.frame_lengths) == get_vision_cu_seqlens(thw).diff().tolist()
    places = get_vision_position_ids(thw, 2).view(len(index), 4, 2)[index].view(-1, 2)
    assert torch.equal(torch.stack((layout.rows, layout.columns), dim=1), places)


def test_layouts_are_kept() -> None:
    assert window_layout((1, 6, 4), 2, 4) is window_layout((1, 6, 4), 2, 4)
