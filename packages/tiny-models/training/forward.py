"""The model's forward pass over rectangular batches, for speed in training.

The weights and layers are transformers' own; what differs is only the bookkeeping around them:
all pictures of a batch have one size, so windows become one attention mask for all of them instead
of a loop over windows. `tests` of the training folder compare it with transformers' forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
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


@cache
def _clip_scale(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation for pixels of 0..255; kept, since a graph can not fetch them."""
    return torch.tensor(CLIP_MEAN, device=device) * 255, torch.tensor(CLIP_STD, device=device) * 255


def patchify(pictures: Tensor) -> Tensor:
    """uint8 (n, height, width, 3) to normalised patches (n, patches, 1176), in merge order."""
    n, height, width, _ = pictures.shape
    mean, std = _clip_scale(pictures.device)
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
    return (x * cos + rotated * sin).to(x.dtype)


def _norm(layer: Any, x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], layer.weight.to(x.dtype), layer.variance_epsilon)


def _mlp(layer: Any, x: Tensor) -> Tensor:
    out: Tensor = layer.down_proj(functional.silu(layer.gate_proj(x)) * layer.up_proj(x))
    return out


def tower_block(layer: Any, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
    """One block of the tower over (pictures, patches, width)."""
    attention = layer.attn
    n, length, _ = x.shape
    qkv = attention.qkv(_norm(layer.norm1, x)).reshape(n, length, 3, attention.num_heads, -1)
    query_key = _turned(qkv[:, :, :2].permute(2, 0, 3, 1, 4), cos, sin)
    value = qkv[:, :, 2].transpose(1, 2)
    seen = functional.scaled_dot_product_attention(*query_key.unbind(0), value, attn_mask=mask)
    x = x + attention.proj(seen.transpose(1, 2).reshape(n, length, -1))
    return x + _mlp(layer.mlp, _norm(layer.norm2, x))


def decoder_layer(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One layer of the decoder over (rows, length, width), causal; padding lies on the right."""
    attention = layer.self_attn
    n, length, _ = x.shape
    normed = _norm(layer.input_layernorm, x)

    def heads(projection: Any) -> Tensor:
        out: Tensor = projection(normed).reshape(n, length, -1, attention.head_dim).transpose(1, 2)
        return out

    query, key = (
        _turned(heads(attention.q_proj), cos, sin),
        _turned(heads(attention.k_proj), cos, sin),
    )
    repeats = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, heads(attention.v_proj)))
    seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    x = x + attention.o_proj(seen.transpose(1, 2).reshape(n, length, -1))
    return x + _mlp(layer.mlp, _norm(layer.post_attention_layernorm, x))


@dataclass(slots=True)
class Inputs:
    """A `Group` on the device."""

    ids: Tensor
    positions: Tensor
    slots: Tensor
    places: Tensor
    labels: Tensor
    num_pictures: int


def to_device(group: Group, device: torch.device) -> Inputs:
    """Copy a group to the device."""
    arrays = (group.ids, group.positions, group.slots, group.places, group.labels)
    moved = [torch.from_numpy(array).to(device, non_blocking=True) for array in arrays]
    return Inputs(*moved, group.num_pictures)


class Forward:
    """Loss and predictions of a transformers model over rectangular batches.

    Nothing in it waits for the device, so a whole step can be captured as a CUDA graph.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device = model, device
        self.visual, self.decoder = model.model.visual, model.model.language_model
        self._grids: dict[tuple[int, int], Grid] = {}
        text = model.config.text_config
        rope = text.rope_parameters
        half = text.hidden_size // text.num_attention_heads // 2
        self._speed = rope["rope_theta"] ** -(torch.arange(half, device=device).float() / half)
        axes = [axis for axis, n in enumerate(rope["mrope_section"]) for _ in range(n)]
        self._axes = torch.tensor(axes, device=device)
        self._words = torch.arange(text.vocab_size, device=device)

    def plan(self, height: int, width: int) -> Grid:
        """The grid of a picture size, made once."""
        key = (height, width)
        if key not in self._grids:
            self._grids[key] = grid(self.visual, height, width, self.device)
        return self._grids[key]

    def see(self, pictures: Tensor) -> Tensor:
        """Pictures (n, height, width, 3) uint8 to embeddings (n, tokens, hidden)."""
        n, height, width, _ = pictures.shape
        plan = self.plan(height, width)
        weight = self.visual.patch_embed.proj.weight
        x = functional.linear(patchify(pictures), weight.reshape(weight.shape[0], -1))
        x = x.reshape(n, -1, MERGE**2, x.shape[-1])[:, plan.order].flatten(1, 2)
        cos, sin = plan.cos.to(x.dtype), plan.sin.to(x.dtype)
        for number, layer in enumerate(self.visual.blocks):
            mask = None if number in self.visual.fullatt_block_indexes else plan.windows
            x = tower_block(layer, x, cos, sin, mask)
        merger = self.visual.merger
        merged: Tensor = merger.mlp(_norm(merger.ln_q, x).reshape(-1, merger.hidden_size))
        return merged.reshape(n, plan.order.numel(), -1)[:, plan.back]

    def logits(self, group: Inputs, seen: Tensor) -> Tensor:
        """Logits at the group's places; `seen` are the embeddings of its pictures."""
        weight = self.decoder.embed_tokens.weight
        chosen = (group.ids[..., None] == self._words).to(seen.dtype)
        x = (chosen @ weight.to(seen.dtype)).flatten(
            0, 1
        )  # an embedding whose backward is a product
        x = x.index_copy(0, group.slots, seen.reshape(-1, seen.shape[-1]))
        x = x.reshape(*group.ids.shape, -1)
        angles = group.positions[self._axes].permute(1, 2, 0).float() * self._speed
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.decoder.layers:
            x = decoder_layer(layer, x, cos, sin)
        x = x.flatten(0, 1).index_select(0, group.places)
        return functional.linear(_norm(self.decoder.norm, x), weight)

    def all_logits(self, groups: list[Inputs], pictures: Tensor) -> list[Tensor]:
        """Logits of every group; `pictures` are those of all groups in order."""
        seen = self.see(pictures).split([group.num_pictures for group in groups])
        return [self.logits(group, part) for group, part in zip(groups, seen, strict=True)]

    def loss(self, groups: list[Inputs], pictures: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy over all answer tokens of the batch.

        Label smoothing takes the gain out of ruling a colour out by the shape's name alone, which
        is how a model without it comes to doubt pairs that it never saw.
        """
        logits = torch.cat(self.all_logits(groups, pictures)).float()
        labels = torch.cat([group.labels for group in groups])
        return functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, label_smoothing=smoothing
        )


def exact(forward: Forward, batch: Batch) -> list[bool]:
    """Per row: would greedy decoding give exactly the answer?

    Greedy decoding gives it if and only if, with the answer as input, every token of it is the
    likeliest at its place, the end of the turn included; so one pass decides.
    """
    groups = [to_device(group, forward.device) for group in batch.groups]
    pictures = torch.from_numpy(batch.pictures).to(forward.device)
    flags: list[bool] = []
    for group, logits in zip(groups, forward.all_logits(groups, pictures), strict=True):
        right = ((logits.argmax(-1) == group.labels) | (group.labels == IGNORED)).cpu()
        rows = (group.places // group.ids.shape[1]).cpu()
        flags += [bool(right[rows == i].all()) for i in range(len(group.ids))]
    return flags
