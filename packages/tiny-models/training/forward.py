"""tiny-vl's forward pass over rectangular batches, for speed in training.

The weights and layers are transformers' own; what differs is only the bookkeeping around them:
all pictures of a batch have one size, so windows become one attention mask for all of them instead
of a loop over windows. The tower sees each pair of a clip's frames by itself, as it sees a picture.
`check_forward.py` compares it with transformers' forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as functional
from decoder import Forward, gated_mlp, norm, turned
from model_files import CLIP_MEAN, CLIP_STD
from torch import Tensor

PATCH, MERGE, SPAN = 14, 2, 2


@dataclass(slots=True)
class Grid:
    """What the tower needs to know of one picture size; tokens in window order."""

    order: Tensor  # (tokens,) merge units in window order
    back: Tensor  # (tokens,) its inverse
    cos: Tensor  # (patches, head size)
    sin: Tensor
    windows: Tensor | None  # (patches, patches) bool, None where one window holds the picture


@cache
def _clip_scale(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation for pixels of 0..255; kept, since a graph can not fetch them."""
    return torch.tensor(CLIP_MEAN, device=device) * 255, torch.tensor(CLIP_STD, device=device) * 255


def patchify(pairs: Tensor) -> Tensor:
    """uint8 (n, 1 or 2, height, width, 3) to normalised patches (n, patches, 1176), in merge order.

    A picture is a pair of itself.
    """
    n, count, height, width, _ = pairs.shape
    mean, std = _clip_scale(pairs.device)
    x = ((pairs.float() - mean) / std).permute(0, 4, 1, 2, 3)
    rows, columns = height // PATCH // MERGE, width // PATCH // MERGE
    x = x.expand(n, 3, SPAN, height, width) if count == 1 else x
    x = x.reshape(n, 3, SPAN, rows, MERGE, PATCH, columns, MERGE, PATCH)
    x = x.permute(0, 3, 6, 4, 7, 1, 2, 5, 8)  # n, rows, columns, merge², channel, pair, patch²
    return x.reshape(n, rows * columns * MERGE**2, -1)


def grid(visual: Any, height: int, width: int, device: torch.device) -> Grid:
    """Window order, rotary angles and mask for pictures of one size."""
    rows, columns = height // PATCH // MERGE, width // PATCH // MERGE
    side = visual.window_size // (PATCH * MERGE)
    down, right = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    window = (down // side * (-(-columns // side)) + right // side).flatten()
    order = torch.argsort(window, stable=True)
    unit = window[order].repeat_interleave(MERGE**2)
    mask = unit[:, None] == unit[None, :]
    inner = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    place = torch.stack([down.flatten(), right.flatten()], dim=1)[order]
    patches = (place[:, None, :] * MERGE + inner[None]).reshape(-1, 2).float()
    dim = visual.blocks[0].attn.head_dim // 2
    speed = 1.0 / (10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float) / dim))
    angles = (patches[:, :, None] * speed).flatten(1)
    angles = torch.cat([angles, angles], dim=-1)
    return Grid(
        order.to(device),
        torch.argsort(order).to(device),
        angles.cos().to(device),
        angles.sin().to(device),
        None if bool(mask.all()) else mask.to(device),
    )


def tower_block(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
    """One block of the tower over (pictures, patches, width)."""
    attention = layer.attn
    n, length, _ = x.shape
    qkv = attention.qkv(norm(layer.norm1, x)).reshape(n, length, 3, attention.num_heads, -1)
    query_key = turned(qkv[:, :, :2].permute(2, 0, 3, 1, 4), cos, sin)
    value = qkv[:, :, 2].transpose(1, 2)
    seen = functional.scaled_dot_product_attention(*query_key.unbind(0), value, attn_mask=mask)
    x = x + attention.proj(seen.transpose(1, 2).reshape(n, length, -1))
    return x + gated_mlp(layer.mlp, norm(layer.norm2, x))


class PictureForward(Forward):
    """Loss and predictions of a Qwen2.5-VL of transformers."""

    def __init__(self, model: Any, device: torch.device) -> None:
        super().__init__(model.model.language_model, model.config.text_config, device)
        self.model, self.visual = model, model.model.visual
        self._grids: dict[tuple[int, int], Grid] = {}

    def plan(self, height: int, width: int) -> Grid:
        """The grid of a picture size, made once."""
        key = (height, width)
        if key not in self._grids:
            self._grids[key] = grid(self.visual, height, width, self.device)
        return self._grids[key]

    def see(self, media: Tensor) -> Tensor:
        """Pictures or clips to embeddings (n, tokens, hidden).

        Args:
            media: uint8 (n, height, width, 3), or (n, frames, height, width, 3).
        """
        height, width = media.shape[-3:-1]
        plan = self.plan(height, width)
        weight = self.visual.patch_embed.proj.weight
        pairs = media.reshape(-1, SPAN if media.ndim == 5 else 1, height, width, 3)
        x = functional.linear(patchify(pairs), weight.reshape(weight.shape[0], -1))
        x = x.reshape(len(pairs), -1, MERGE**2, x.shape[-1])[:, plan.order].flatten(1, 2)
        cos, sin = plan.cos.to(x.dtype), plan.sin.to(x.dtype)
        for number, layer in enumerate(self.visual.blocks):
            mask = None if number in self.visual.fullatt_block_indexes else plan.windows
            x = tower_block(layer, x, cos, sin, mask)
        merger = self.visual.merger
        merged: Tensor = merger.mlp(norm(merger.ln_q, x).reshape(-1, merger.hidden_size))
        tokens = merged.reshape(len(pairs), plan.order.numel(), -1)[:, plan.back]
        return tokens.reshape(len(media), -1, tokens.shape[-1])
