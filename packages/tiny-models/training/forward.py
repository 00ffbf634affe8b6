"""The model's forward pass over rectangular batches, for speed in training.

The weights and layers are transformers' own; what differs is only the bookkeeping around them:
all pictures of a batch have one size, so windows become one attention mask for all of them instead
of a loop over windows. `tests` of the training folder compare it with transformers' forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from data import IGNORED, Batch, Group
from model_files import CLIP_MEAN, CLIP_STD
from torch import Tensor

PATCH, MERGE = 14, 2


@dataclass(slots=True)
class Grid:
    """What the tower needs to know of one picture size; tokens in window order."""

    order: Tensor  # (tokens,) merge units in window order
    back: Tensor  # (tokens,) its inverse
    cos: Tensor  # (patches, head size)
    sin: Tensor
    windows: Tensor | None  # (patches, patches) bool, None where one window holds the picture


def patchify(pictures: Tensor) -> Tensor:
    """uint8 (n, height, width, 3) to normalised patches (n, patches, 1176), in merge order."""
    n, height, width, _ = pictures.shape
    mean = torch.tensor(CLIP_MEAN, device=pictures.device) * 255
    std = torch.tensor(CLIP_STD, device=pictures.device) * 255
    x = ((pictures.float() - mean) / std).permute(0, 3, 1, 2)
    rows, columns = height // PATCH // MERGE, width // PATCH // MERGE
    x = x.reshape(n, 3, rows, MERGE, PATCH, columns, MERGE, PATCH)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # n, rows, columns, merge, merge, channel, patch, patch
    x = x.unsqueeze(6).expand(*x.shape[:6], 2, PATCH, PATCH)
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


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    rotated = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return (x.float() * cos + rotated.float() * sin).to(x.dtype)


def block(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
    """One block of the tower over (pictures, patches, width)."""
    attention = layer.attn
    n, length, _ = x.shape
    qkv = attention.qkv(layer.norm1(x)).reshape(n, length, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    query, key = _turned(query, cos, sin), _turned(key, cos, sin)
    seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    x = x + attention.proj(seen.transpose(1, 2).reshape(n, length, -1))
    return x + layer.mlp(layer.norm2(x))


class Forward:
    """Loss and predictions of a transformers model over `Batch`es."""

    def __init__(self, model: Any, device: torch.device, *, compiled: bool = False) -> None:
        self.model, self.device = model, device
        self.visual, self.decoder = model.model.visual, model.model.language_model
        self.image_id = model.config.image_token_id
        self._grids: dict[tuple[int, int], Grid] = {}
        self._block = block
        self._layer = _decoder_layer
        if compiled:
            self._block = torch.compile(block, dynamic=True)
            self._layer = torch.compile(_decoder_layer, dynamic=True)

    def see(self, pictures: Tensor) -> Tensor:
        """Pictures (n, height, width, 3) uint8 to embeddings (n, tokens, hidden)."""
        n, height, width, _ = pictures.shape
        key = (height, width)
        if key not in self._grids:
            self._grids[key] = grid(self.visual, height, width, self.device)
        plan = self._grids[key]
        weight = self.visual.patch_embed.proj.weight
        x = functional.linear(patchify(pictures), weight.reshape(weight.shape[0], -1))
        x = x.reshape(n, -1, MERGE**2, x.shape[-1])[:, plan.order].flatten(1, 2)
        for number, layer in enumerate(self.visual.blocks):
            mask = None if number in self.visual.fullatt_block_indexes else plan.windows
            x = self._block(layer, x, plan.cos, plan.sin, mask)
        merged: Tensor = self.visual.merger(x.reshape(-1, x.shape[-1]))
        return merged.reshape(n, plan.order.numel(), -1)[:, plan.back]

    def hidden(self, ids: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        """The decoder's last hidden states, pictures put at their placeholders."""
        x = self.decoder.embed_tokens(ids)
        if seen is not None:
            x = x.to(seen.dtype)
            x = x.masked_scatter((ids == self.image_id)[..., None], seen)
        angles = self.decoder.rotary_emb(x, positions)
        for layer in self.decoder.layers:
            x = self._layer(layer, x, angles[0], angles[1])
        normed: Tensor = self.decoder.norm(x)
        return normed

    def answers(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Per group: logits at the places that predict an answer token, and those tokens."""
        pictures = torch.from_numpy(batch.pictures)
        if self.device.type == "cuda":
            pictures = pictures.pin_memory().to(self.device, non_blocking=True)
        seen = self.see(pictures) if len(pictures) else None
        results, used = [], 0
        for one in batch.groups:
            count = len(one.ids) * one.num_images
            part = seen[used : used + count] if seen is not None and count else None
            used += count
            results.append(self._group(one, part))
        return results

    def _group(self, one: Group, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(one.ids).to(self.device, non_blocking=True)
        positions = torch.from_numpy(one.positions).to(self.device, non_blocking=True)
        places = np_flat(one.labels)
        x = self.hidden(ids, positions, seen).flatten(0, 1)
        chosen = x[torch.from_numpy(places - 1).to(self.device, non_blocking=True)]
        labels = torch.from_numpy(one.labels.reshape(-1)[places]).to(self.device, non_blocking=True)
        return functional.linear(chosen, self.decoder.embed_tokens.weight), labels

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy over all answer tokens of the batch."""
        parts = self.answers(batch)
        logits = torch.cat([logits for logits, _ in parts]).float()
        return functional.cross_entropy(logits, torch.cat([labels for _, labels in parts]))


def _decoder_layer(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = layer(x, attention_mask=None, position_embeddings=(cos, sin))
    result: Tensor = out[0] if isinstance(out, tuple) else out
    return result


def np_flat(labels: Any) -> Any:
    """Indices, into the flattened labels, of the answer tokens."""
    return (labels.reshape(-1) != IGNORED).nonzero()[0]


def exact(forward: Forward, batch: Batch) -> list[bool]:
    """Per item: would greedy decoding give exactly the answer?

    Greedy decoding gives it if and only if, with the answer as input, every token of it is the
    likeliest at its place, the end of the turn included; so one pass decides.
    """
    flags: list[bool] = []
    for one, (logits, labels) in zip(batch.groups, forward.answers(batch), strict=True):
        right = (logits.argmax(-1) == labels).cpu().numpy()
        rows = np_flat(one.labels) // one.labels.shape[1]
        flags += [bool(right[rows == i].all()) for i in range(len(one.ids))]
    return flags
