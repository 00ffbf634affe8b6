"""The decoder's forward pass over rectangular batches, loss and exact answers; for every model.

The weights and layers are transformers' own; what differs is only the bookkeeping around them.
Nothing waits for the device, so that a whole step can be captured as a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from batches import IGNORED, Batch, Group
from torch import Tensor


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    rotated = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return (x * cos + rotated * sin).to(x.dtype)


def norm(layer: Any, x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], layer.weight.to(x.dtype), layer.variance_epsilon)


def gated_mlp(layer: Any, x: Tensor) -> Tensor:
    out: Tensor = layer.down_proj(functional.silu(layer.gate_proj(x)) * layer.up_proj(x))
    return out


def decoder_layer(layer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One layer of the decoder over (rows, length, width), causal; padding lies on the right."""
    attention = layer.self_attn
    n, length, _ = x.shape
    normed = norm(layer.input_layernorm, x)

    def heads(projection: Any) -> Tensor:
        out: Tensor = projection(normed).reshape(n, length, -1, attention.head_dim).transpose(1, 2)
        return out

    query, key = (
        turned(heads(attention.q_proj), cos, sin),
        turned(heads(attention.k_proj), cos, sin),
    )
    repeats = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, heads(attention.v_proj)))
    seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    x = x + attention.o_proj(seen.transpose(1, 2).reshape(n, length, -1))
    return x + gated_mlp(layer.mlp, norm(layer.post_attention_layernorm, x))


@dataclass(slots=True)
class Inputs:
    """A `Group` on the device."""

    ids: Tensor
    positions: Tensor
    slots: Tensor
    places: Tensor
    labels: Tensor
    num_items: int

    def tensors(self) -> tuple[Tensor, ...]:
        """Its tensors, in a fixed order."""
        return (self.ids, self.positions, self.slots, self.places, self.labels)

    def clone(self) -> Inputs:
        """A copy whose tensors have memory of their own."""
        return Inputs(*(tensor.clone() for tensor in self.tensors()), self.num_items)


def to_device(group: Group, device: torch.device) -> Inputs:
    """Copy a group to the device."""
    arrays = (group.ids, group.positions, group.slots, group.places, group.labels)
    moved = [torch.from_numpy(array).to(device, non_blocking=True) for array in arrays]
    return Inputs(*moved, group.num_items)


class Forward:
    """Loss and predictions over rectangular batches; a model says how it sees its items.

    Args:
        decoder: transformers' decoder: ``embed_tokens``, ``layers``, ``norm``.
        config: the decoder's.
    """

    def __init__(self, decoder: Any, config: Any, device: torch.device) -> None:
        self.decoder, self.device = decoder, device
        rope = config.rope_parameters
        half = config.hidden_size // config.num_attention_heads // 2
        self._speed = rope["rope_theta"] ** -(torch.arange(half, device=device).float() / half)
        sections = rope.get("mrope_section", [half])
        axes = [axis for axis, n in enumerate(sections) for _ in range(n)]
        self._axes = torch.tensor(axes, device=device)
        self._words = torch.arange(config.vocab_size, device=device)

    def see(self, media: Tensor) -> Tensor:
        """Media (n, …) to embeddings (n, tokens, hidden)."""
        raise NotImplementedError

    def logits(self, group: Inputs, seen: Tensor) -> Tensor:
        """Logits at the group's places; `seen` are the embeddings of its items."""
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
        return functional.linear(norm(self.decoder.norm, x), weight)

    def all_logits(self, groups: list[Inputs], media: Tensor) -> list[Tensor]:
        """Logits of every group; `media` are those of all groups in order."""
        seen = self.see(media).split([group.num_items for group in groups])
        return [self.logits(group, part) for group, part in zip(groups, seen, strict=True)]

    def loss(self, groups: list[Inputs], media: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy over all answer tokens of the batch.

        Label smoothing takes the gain out of ruling an answer out by another word alone, which is
        how a model without it comes to doubt combinations that it never saw.
        """
        logits = torch.cat(self.all_logits(groups, media)).float()
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
    media = torch.from_numpy(batch.media).to(forward.device)
    flags: list[bool] = []
    for group, logits in zip(groups, forward.all_logits(groups, media), strict=True):
        right = ((logits.argmax(-1) == group.labels) | (group.labels == IGNORED)).cpu()
        rows = (group.places // group.ids.shape[1]).cpu()
        flags += [bool(right[rows == i].all()) for i in range(len(group.ids))]
    return flags
