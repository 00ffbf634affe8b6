"""The published positions of the Qwens' video, in plain torch, and transformers' models under them.

Written from the papers (Wang et al. 2024, section 2.1; Bai et al. 2025, section 2.1.2) and the code
published beside the checkpoints, not from ours. transformers from 5.3 on places what follows a
clip elsewhere, so its own positions are no reference; its towers and decoders are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Item:
    """A picture or a clip in a prompt.

    Attributes:
        grid: (times, rows, columns) in patches.
        patches: (N, 3 · 2 · 14 · 14) float32, normalised.
        second_per_grid: seconds that a time of the grid spans; 0 for a picture.
    """

    grid: tuple[int, int, int]
    patches: torch.Tensor
    second_per_grid: float = 0.0

    @property
    def is_clip(self) -> bool:
        return self.second_per_grid > 0


def published_positions(
    ids: Sequence[int],
    items: Sequence[Item],
    pads: tuple[int, int],
    *,
    merge: int = 2,
    tokens_per_second: float | None = None,
) -> torch.Tensor:
    """(3, len(ids)) int64.

    Args:
        ids: the prompt with every pad in place.
        items: in the order of the prompt.
        pads: ids of the pads of pictures and of clips.
        tokens_per_second: of Qwen2.5-VL; None: times are counted, as in Qwen2-VL.
    """
    positions: list[list[int]] = []  # (time, row, column) of each token
    at, waiting = 0, list(items)
    while at < len(ids):
        begin = max((max(place) for place in positions), default=-1) + 1
        if ids[at] not in pads:
            positions.append([begin] * 3)
            at += 1
            continue
        item = waiting.pop(0)
        assert (ids[at] == pads[1]) == item.is_clip
        times, rows, columns = item.grid[0], item.grid[1] // merge, item.grid[2] // merge
        for time in range(times):
            moment = time
            if tokens_per_second is not None:
                seconds = torch.tensor(item.second_per_grid, dtype=torch.float32)
                moment = int((torch.tensor([time]) * seconds * tokens_per_second).long())
            for row in range(rows):
                for column in range(columns):
                    positions.append([begin + moment, begin + row, begin + column])
        at += times * rows * columns
    assert not waiting, "more items than pads"
    return torch.tensor(positions).T


class QwenVideoReference:
    """transformers' model of a folder, under the published positions."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModelForImageTextToText

        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
        config = self.model.config
        self.pads = (config.image_token_id, config.video_token_id)
        self.tokens_per_second = getattr(config.vision_config, "tokens_per_second", None)

    def positions(self, ids: Sequence[int], items: Sequence[Item]) -> torch.Tensor:
        """(3, len(ids)) of a prompt with its answer behind it."""
        return published_positions(ids, items, self.pads, tokens_per_second=self.tokens_per_second)

    def logits(self, ids: Sequence[int], items: Sequence[Item]) -> torch.Tensor:
        """(len(ids), vocabulary)."""
        inputs: dict[str, Any] = {"input_ids": torch.tensor([list(ids)])}
        for names, own in (
            (("pixel_values", "image_grid_thw"), [i for i in items if not i.is_clip]),
            (("pixel_values_videos", "video_grid_thw"), [i for i in items if i.is_clip]),
        ):
            if own:
                inputs[names[0]] = torch.cat([item.patches for item in own])
                inputs[names[1]] = torch.tensor([item.grid for item in own])
        inputs["position_ids"] = self.positions(ids, items)[:, None]
        self.model.model.rope_deltas = None
        with torch.inference_mode():
            logits: torch.Tensor = self.model(**inputs).logits[0]
        return logits


def patches_of(frames: torch.Tensor, *, patch: int = 14, merge: int = 2) -> torch.Tensor:
    """(frames, h, w, 3) uint8 → (N, 3 · 2 · P · P) float32, normalised as CLIP's.

    By pair of frames (an odd last one twice), block row, block column, row, column; each patch by
    channel, frame, row, column.
    """
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]) * 255
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]) * 255
    if len(frames) % 2:
        frames = torch.cat((frames, frames[-1:]))
    values = (frames.float() - mean) / deviation
    rows = []
    block = patch * merge
    for first in range(0, len(frames), 2):
        pair = values[first : first + 2]
        for down in range(0, frames.shape[1], block):
            for across in range(0, frames.shape[2], block):
                for y in range(down, down + block, patch):
                    for x in range(across, across + block, patch):
                        cut = pair[:, y : y + patch, x : x + patch]
                        rows.append(cut.permute(3, 0, 1, 2).flatten())
    return torch.stack(rows)
