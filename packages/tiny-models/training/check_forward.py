"""Compare the training's forward pass, patches and positions with transformers' and the engine's.

transformers computes patches, logits and the positions of pictures. A clip's times have the
engine's positions: transformers 5.3 has others, which no checkpoint was trained with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# Also where the packages aren't installed.
sys.path.insert(0, str(Path(__file__).parents[2] / "core" / "src"))
sys.path.insert(0, str(Path(__file__).parents[2] / "media-image" / "src"))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import numpy as np
import torch
from batches import Batch
from data import POSITIONS_PER_SECOND, SPAN, UNIT, Encoder
from decoder import Inputs, to_device
from evaluate import batches, draw, draw_clips
from forward import PictureForward, patchify
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sensorium.types import MediaPlan, MediaSpan, PreparedItem
from sensorium_media_image.families.mrope import (
    SECONDS_PER_GRID,
    TOKENS_PER_SECOND,
    mrope_positions,
)
from sensorium_tiny_models.clips import FRAMES_PER_SECOND
from sensorium_tiny_models.questions import Item

MODEL = Path(__file__).parents[1] / "src" / "sensorium_tiny_models" / "model"


class Check:
    """A random model, and how far the two ways of computing with it are apart."""

    def __init__(self) -> None:
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(MODEL)
        self.config = AutoConfig.from_pretrained(MODEL, attn_implementation="sdpa")
        self.model = AutoModelForImageTextToText.from_config(
            self.config, dtype=torch.float32
        ).eval()
        for parameter in self.model.parameters():  # well away from the almost linear start
            parameter.mul_(2.0 if parameter.ndim > 1 else 1.0)
        self.forward = PictureForward(self.model, torch.device("cpu"))
        self.encoder = Encoder(Tokenizer.from_file(str(MODEL / "tokenizer.json")))
        self.worst_logit = self.worst_patch = 0.0

    def pictures(self, items: list[Item]) -> None:
        """Items with pictures, each form of them as one batch."""
        for numbers, batch in batches(items, self.encoder):
            one = to_device(batch.groups[0], self.forward.device)
            media = torch.from_numpy(batch.media)
            shown = [image for number in numbers for image in items[number].images]
            pixels = self.processor(shown, return_tensors="pt")
            self._compare_patches(patchify(media[:, None]), pixels["pixel_values"])
            kinds = (one.ids == self.config.image_token_id).int()
            positions, _ = self.model.model.get_rope_index(
                one.ids, mm_token_type_ids=kinds, image_grid_thw=pixels["image_grid_thw"]
            )
            self._compare_positions(one, positions)
            self._compare_logits(one, media, mm_token_type_ids=kinds, **pixels)

    def clips(self, items: list[Item]) -> None:
        """Items with clips, each form of them as one batch."""
        for _, batch in batches(items, self.encoder):
            one = to_device(batch.groups[0], self.forward.device)
            media = torch.from_numpy(batch.media)
            n, frames, height, width, _ = media.shape
            patches = patchify(media.reshape(-1, SPAN, height, width, 3))
            expected = [
                self._pair(pair) for pair in batch.media.reshape(-1, SPAN, *media.shape[2:])
            ]
            self._compare_patches(patches, torch.stack(expected).flatten(0, 1))
            self._compare_positions(one, self._engine_positions(one, batch))
            self._compare_logits(
                one,
                media,
                mm_token_type_ids=2 * (one.ids == self.config.video_token_id).int(),
                pixel_values_videos=patches.flatten(0, 1),
                video_grid_thw=torch.tensor([[frames // SPAN, height // 14, width // 14]] * n),
            )

    def _pair(self, frames: np.ndarray[Any, Any]) -> Tensor:
        """transformers' patches of two frames: each frame's own half of the picture of it."""
        halves = self.processor([*frames], return_tensors="pt")["pixel_values"]
        first, second = halves.reshape(SPAN, -1, 3, SPAN, 14 * 14)
        return torch.stack([first[:, :, 0], second[:, :, 1]], dim=2).flatten(1)

    def _engine_positions(self, one: Inputs, batch: Batch) -> Tensor:
        """(3, n, length), by the engine's rule for clips of two frames a second."""
        _, frames, height, width, _ = batch.media.shape
        grid = (frames // SPAN, height // UNIT, width // UNIT)
        video_id, num_tokens = self.config.video_token_id, int(np.prod(grid))
        facts = {
            SECONDS_PER_GRID: (SPAN / FRAMES_PER_SECOND,),
            TOKENS_PER_SECOND: POSITIONS_PER_SECOND,
        }
        plan = MediaPlan(num_tokens, (video_id,) * num_tokens, grid=grid, facts=facts)
        item = PreparedItem("video", 0, bytes(32), plan, {})
        rows = []
        for ids in one.ids:
            offset = int((ids == video_id).nonzero()[0])
            span = MediaSpan(0, (0, num_tokens), offset, num_tokens)
            rows.append(torch.from_numpy(mrope_positions(len(ids), [span], [item])[0]))
        return torch.stack(rows, dim=1)

    def _compare_patches(self, ours: Tensor, theirs: Tensor) -> None:
        difference = float((ours.reshape(theirs.shape) - theirs).abs().max())
        self.worst_patch = max(self.worst_patch, difference)

    def _compare_positions(self, one: Inputs, positions: Tensor) -> None:
        """Up to the last answer token of each row; padding has none."""
        length = one.ids.shape[1]
        for row in range(len(one.ids)):
            last = int(one.places[one.places // length == row].max() % length) + 1
            assert (positions[:, row, :last] == one.positions[:, row, :last]).all()

    def _compare_logits(self, one: Inputs, media: Tensor, **shown: Tensor) -> None:
        (ours,) = self.forward.all_logits([one], media)
        theirs = self.model(
            input_ids=one.ids,
            attention_mask=torch.ones_like(one.ids),
            position_ids=one.positions,
            **shown,
        ).logits
        difference = float((theirs.flatten(0, 1)[one.places] - ours).abs().max())
        self.worst_logit = max(self.worst_logit, difference)


@torch.no_grad()
def main() -> None:
    """Checks pictures and clips of every form that training tests with."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    check = Check()
    check.pictures(draw("train", 5, 3))
    check.clips(draw_clips("train", 5, 9))
    print(f"patches differ by {check.worst_patch:.2e} at most, logits by {check.worst_logit:.2e}")
    assert check.worst_patch < 1e-5
    assert check.worst_logit < 1e-3


if __name__ == "__main__":
    main()
