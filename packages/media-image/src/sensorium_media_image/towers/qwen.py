"""The towers of Qwen2-VL and Qwen2.5-VL: images at their own resolution, rotary positions.

    Qwen2-VL (Wang et al. 2024)    LayerNorm, a plain MLP, every patch sees its whole frame
    Qwen2.5-VL (Bai et al. 2025)   RMSNorm, a gated MLP, most layers see a window

Takes uint8 frames whose sides are multiples of a block of patches, and returns one embedding
row a block. Frames come in pairs (a single one is paired with itself), so that video can use the
same tower. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from sensorium.errors import ConfigError
from sensorium.models.layers import GatedMLP, Linear, RMSNorm
from sensorium.ops import Segments, apply_rope_, varlen_attention
from sensorium.plugins.context import EncoderContext
from sensorium.plugins.encoder import EncoderOutput, WeightMap, WeightRule
from sensorium.types import Features
from sensorium_media_image.fields import image_processor
from sensorium_media_image.patches import normalised_patches
from sensorium_media_image.pieces import piece_views
from sensorium_media_image.towers.activations import activation
from sensorium_media_image.towers.normalise import Normalisation, read_normalisation
from sensorium_media_image.towers.qwen_config import QwenTowerConfig, read_tower_config
from sensorium_media_image.towers.windows import WindowLayout, window_layout

#: The published classes write it into their code.
NORM_EPS = 1e-6


class QwenTower(nn.Module):
    """Pixels to embedding rows of the decoder's width. Parameters are created empty."""

    def __init__(
        self,
        config: QwenTowerConfig,
        normalisation: Normalisation,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.config = config
        self.normalisation = normalisation
        shape = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.patch_embedding = nn.Parameter(
            torch.empty(config.hidden_size, 3, *shape, dtype=dtype, device=device)
        )
        self.blocks = nn.ModuleList(
            QwenBlock(config, dtype, device) for _ in range(config.num_layers)
        )
        self.merger = Merger(config, dtype, device)

    @torch.no_grad()
    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        """Encodes items with "pixels" (frames, height, width, 3) uint8, of any sizes.

        Returns:
            For each (blocks, out_size) in the tower's dtype, blocks by frame, row, column.
        """
        if not items:
            return []
        config = self.config
        pixels = [item["pixels"].to(self.patch_embedding.device) for item in items]
        layouts = [self._layout(frames) for frames in pixels]
        x = self.embed(pixels)
        order = _order(layouts).to(x.device, non_blocking=True)
        x = x.view(len(order), -1)[order].view(len(x), -1)
        tables = self.rope_tables(layouts)
        windows = Segments(_borders(layout.window_lengths for layout in layouts), x.device)
        frames = Segments(_borders(layout.frame_lengths for layout in layouts), x.device)
        residual: Tensor | None = None
        for i, block in enumerate(self.blocks):
            x, residual = block(x, residual, tables, frames if config.is_full(i) else windows)
        merged = self.merger(x, residual)
        embeds = torch.empty_like(merged)
        embeds[order] = merged
        counts = [len(layout.blocks) for layout in layouts]
        return [EncoderOutput(part) for part in torch.split(embeds, counts)]

    def encode_piece(self, item: Features, piece: int, num_pieces: int) -> EncoderOutput:
        """The rows of a run of an item's times: patches of one time see no others."""
        frames, span = item["pixels"], self.config.temporal_patch_size
        start, stop = piece_views(-(-len(frames) // span), piece, num_pieces)
        (output,) = self.forward([{"pixels": frames[start * span : stop * span]}])
        return output

    def embed(self, pixels: Sequence[Tensor]) -> Tensor:
        """Items (frames, height, width, 3) uint8 → (N, hidden), blocks together."""
        weight = self.patch_embedding
        constants = self.normalisation.constants(weight.device)
        patches = normalised_patches(pixels, self.config.patches, *constants)
        return nn.functional.linear(patches.to(weight.dtype), weight.flatten(1))

    def _layout(self, pixels: Tensor) -> WindowLayout:
        config = self.config
        frames, height, width, _ = pixels.shape
        span, size = config.temporal_patch_size, config.patch_size
        grid = (-(-frames // span), height // size, width // size)
        window_blocks = config.window_blocks or max(grid)  # without windows the frame is one
        return window_layout(grid, config.merge_size, window_blocks)

    def rope_tables(self, layouts: Sequence[WindowLayout]) -> tuple[Tensor, Tensor]:
        """Cosines and sines (N, head_size/2) float32: the first half turns by rows, the second
        by columns."""
        device = self.patch_embedding.device
        quarter = self.config.hidden_size // self.config.num_heads // 4
        steps = torch.arange(quarter, dtype=torch.float32, device=device) / quarter
        frequencies = 1.0 / self.config.rope_theta**steps
        rows = torch.cat([layout.rows for layout in layouts]).to(device, non_blocking=True)
        columns = torch.cat([layout.columns for layout in layouts]).to(device, non_blocking=True)
        angles = torch.stack((rows, columns), dim=1)[..., None].float() * frequencies
        angles = angles.flatten(1)
        return angles.cos(), angles.sin()


def _order(layouts: Sequence[WindowLayout]) -> Tensor:
    """Window order of all items' blocks, which lie one item behind another."""
    parts, offset = [], 0
    for layout in layouts:
        parts.append(layout.blocks + offset)
        offset += len(layout.blocks)
    return torch.cat(parts)


def _borders(lengths: Iterable[tuple[int, ...]]) -> list[int]:
    """Cumulative lengths, from 0."""
    return list(accumulate((n for part in lengths for n in part), initial=0))


class QwenBlock(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: QwenTowerConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.norm1 = _norm(config, dtype, device)
        self.qkv = Linear(size, 3 * size, bias=True, dtype=dtype, device=device)
        self.proj = Linear(size, size, bias=True, dtype=dtype, device=device)
        self.norm2 = _norm(config, dtype, device)
        inner_size, act = config.intermediate_size, config.activation
        self.mlp: nn.Module
        if config.gated:
            self.mlp = GatedMLP(
                size, inner_size, act, bias=True, dtype=dtype, device=device, multiple=64
            )
        else:
            self.mlp = PlainMLP(size, inner_size, act, bias=True, dtype=dtype, device=device)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        tables: tuple[Tensor, Tensor],
        segments: Segments,
    ) -> tuple[Tensor, Tensor]:
        """(N, hidden), the last block's output and the stream it is added to → the same of this
        one. Attention is inside each segment."""
        x, residual = self.norm1.add(x, residual)
        qkv = self.qkv(x).view(len(x), 3 * self.num_heads, -1)
        apply_rope_(qkv[:, : 2 * self.num_heads], *tables)
        q, k, v = qkv.chunk(3, dim=1)
        x = self.proj(varlen_attention(q, k, v, segments).flatten(1))
        x, residual = self.norm2.add(x, residual)
        return self.mlp(x), residual


class PlainMLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(
        self,
        size: int,
        inner_size: int,
        hidden_act: str,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.act = activation(hidden_act, "config.json: vision_config: hidden_act")
        self.fc1 = Linear(size, inner_size, bias=bias, dtype=dtype, device=device)
        self.fc2 = Linear(inner_size, size, bias=bias, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(N, size) → (N, size)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Merger(nn.Module):
    """A block's patches side by side, through two linear layers to the decoder's width."""

    def __init__(self, config: QwenTowerConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.merged_size = config.hidden_size * config.merge_size**2
        self.ln_q = _norm(config, dtype, device)
        self.fc1 = Linear(self.merged_size, self.merged_size, bias=True, dtype=dtype, device=device)
        self.fc2 = Linear(self.merged_size, config.out_size, bias=True, dtype=dtype, device=device)

    def forward(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """(N, hidden), as the last block left them → (N/m², out_size)."""
        normed, _ = self.ln_q.add(x, residual)
        merged = normed.view(-1, self.merged_size)
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(merged)))
        return out


class LayerNorm(nn.LayerNorm):
    """Qwen2-VL's norm, with the interface of ``RMSNorm``."""

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of x + residual (of x, without one), and that sum: (N, size) each."""
        total = x if residual is None else x + residual
        return self(total), total


def _norm(config: QwenTowerConfig, dtype: torch.dtype, device: torch.device) -> RMSNorm | LayerNorm:
    if config.rms_norm:
        return RMSNorm(config.hidden_size, NORM_EPS, dtype=dtype, device=device)
    return LayerNorm(config.hidden_size, NORM_EPS, dtype=dtype, device=device)


def build_qwen_tower(context: EncoderContext) -> QwenTower:
    """The tower that ``config.json`` describes, its weights yet to come.

    Raises:
        ConfigError: its output isn't as wide as the decoder.
    """
    config = read_tower_config(context.config, context.architecture)
    if config.out_size != context.decoder.hidden_size:
        raise ConfigError(
            f"config.json: vision_config: {config.out_name} is {config.out_size}; the decoder's "
            f"hidden_size is {context.decoder.hidden_size}."
        )
    normalisation = read_normalisation(image_processor(context.processor))
    return QwenTower(config, normalisation, context.dtype, context.device)


#: Of both: published names (``visual.``) and transformers 5's in memory (``model.visual.``).
_TOWER = r"(?:model\.)?visual\."
QWEN_TOWER_WEIGHTS = WeightMap(
    (
        WeightRule(rf"{_TOWER}patch_embed\.proj\.weight", "patch_embedding"),
        WeightRule(rf"{_TOWER}blocks\.(\d+)\.attn\.(\w+\.\w+)", r"blocks.\1.\2"),
        WeightRule(rf"{_TOWER}blocks\.(\d+)\.((?:norm[12]|mlp\.\w+)\.\w+)", r"blocks.\1.\2"),
        WeightRule(rf"{_TOWER}merger\.ln_q\.(\w+)", r"merger.ln_q.\1"),
        WeightRule(rf"{_TOWER}merger\.mlp\.0\.(\w+)", r"merger.fc1.\1"),
        WeightRule(rf"{_TOWER}merger\.mlp\.2\.(\w+)", r"merger.fc2.\1"),
        # Follows from the config.
        WeightRule(rf"{_TOWER}rotary_pos_emb\.inv_freq", None),
    )
)
