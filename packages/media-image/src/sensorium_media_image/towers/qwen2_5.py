"""Qwen2.5-VL's tower (Bai et al. 2025): windowed attention at any resolution.

Takes uint8 frames whose sides are multiples of a block of patches, and returns one embedding
row a block. Frames come in pairs (a single one is paired with itself), so that moving
pictures can use the same tower. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from sensorium.errors import ConfigError
from sensorium.models.layers import GatedMLP, Linear, RMSNorm
from sensorium.ops import apply_rope, varlen_attention
from sensorium.plugins.context import EncoderContext
from sensorium.plugins.encoder import EncoderOutput, WeightMap, WeightRule
from sensorium.types import Features
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.towers.normalise import Normalisation, read_normalisation
from sensorium_media_image.towers.windows import Grid, WindowLayout, window_layout

#: The published class writes both into its code.
NORM_EPS = 1e-6
ROPE_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class QwenTowerConfig:
    """The tower's shape.

    Attributes:
        patch_size: side of a patch in pixels; temporal_patch_size: frames it spans.
        merge_size: patches of a block along each axis, m.
        window_size: side of a window in pixels.
        full_layers: layers in which all patches of a frame see each other.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    out_size: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    full_layers: frozenset[int]
    activation: str
    rope_theta: float

    @property
    def window_blocks(self) -> int:
        """Blocks of a window along each axis."""
        return self.window_size // self.merge_size // self.patch_size


def read_tower_config(config: Mapping[str, Any]) -> QwenTowerConfig:
    """Reads ``vision_config``; what it leaves out is the published class's default.

    Raises:
        ConfigError: a value that isn't built, by name.
    """
    section = Section(config, "config.json").sub("vision_config")
    section.require("in_channels", 3)
    section.require("in_chans", 3)
    rope = section.sub("rope_parameters")
    rope.require("rope_type", "axial", "default")
    tower = QwenTowerConfig(
        hidden_size=section.integer("hidden_size", 3584),
        intermediate_size=section.integer("intermediate_size", 3420),
        num_heads=section.integer("num_heads", 16),
        num_layers=section.integer("depth", 32),
        out_size=section.integer("out_hidden_size", 3584),
        patch_size=section.integer("patch_size", 14),
        temporal_patch_size=section.integer("temporal_patch_size", 2),
        merge_size=section.integer("spatial_merge_size", 2),
        window_size=section.integer("window_size", 112),
        full_layers=_full_layers(section.values.get("fullatt_block_indexes")),
        activation=section.text("hidden_act", "silu"),
        rope_theta=rope.number("rope_theta", ROPE_THETA),
    )
    if tower.hidden_size % (4 * tower.num_heads):
        raise ConfigError(
            f"{section.name}: hidden_size {tower.hidden_size} is no multiple of four times "
            f"num_heads {tower.num_heads}, which rotating by rows and columns needs."
        )
    if tower.window_blocks < 1:
        raise ConfigError(
            f"{section.name}: window_size {tower.window_size} is smaller than a block of "
            f"{tower.merge_size} patches of {tower.patch_size} pixels."
        )
    return tower


def _full_layers(value: object) -> frozenset[int]:
    layers = [7, 15, 23, 31] if value is None else value
    if not isinstance(layers, Sequence) or not all(isinstance(i, int) for i in layers):
        raise ConfigError(
            f"config.json: vision_config: fullatt_block_indexes is {layers!r}; it must be a "
            "list of layers' numbers."
        )
    return frozenset(layers)


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
        patches, layouts = [], []
        for item in items:
            rows, grid = patchify(item["pixels"].to(self.patch_embedding.device), config)
            patches.append(rows)
            layouts.append(window_layout(grid, config.merge_size, config.window_blocks))
        x = self.embed(torch.cat(patches))
        order = _order(layouts).to(x.device)
        x = x.view(len(order), -1)[order].view(len(x), -1)
        tables = self.rope_tables(layouts)
        windows = _borders(layout.window_lengths for layout in layouts)
        frames = _borders(layout.frame_lengths for layout in layouts)
        for i, block in enumerate(self.blocks):
            x = block(x, tables, frames if i in config.full_layers else windows)
        merged = self.merger(x)
        embeds = torch.empty_like(merged)
        embeds[order] = merged
        counts = [len(layout.blocks) for layout in layouts]
        return [EncoderOutput(part) for part in torch.split(embeds, counts)]

    def embed(self, patches: Tensor) -> Tensor:
        """(N, 3·T·P·P) uint8, elements by channel → (N, hidden)."""
        weight = self.patch_embedding
        per_channel = patches.shape[1] // 3
        mean, std = self.normalisation.constants(weight.device)
        values = (patches.float() - mean.repeat_interleave(per_channel)) / std.repeat_interleave(
            per_channel
        )
        return nn.functional.linear(values.to(weight.dtype), weight.flatten(1))

    def rope_tables(self, layouts: Sequence[WindowLayout]) -> tuple[Tensor, Tensor]:
        """Cosines and sines (N, 1, head_size/2) float32: the first half turns by rows, the
        second by columns."""
        device = self.patch_embedding.device
        quarter = self.config.hidden_size // self.config.num_heads // 4
        steps = torch.arange(quarter, dtype=torch.float32, device=device) / quarter
        frequencies = 1.0 / self.config.rope_theta**steps
        rows = torch.cat([layout.rows for layout in layouts]).to(device)
        columns = torch.cat([layout.columns for layout in layouts]).to(device)
        angles = torch.stack((rows, columns), dim=1)[..., None].float() * frequencies
        angles = angles.flatten(1)[:, None]
        return angles.cos(), angles.sin()


def patchify(pixels: Tensor, config: QwenTowerConfig) -> tuple[Tensor, Grid]:
    """Cuts frames into patches, blocks together, without leaving uint8.

    An odd last frame is paired with itself, as the published processor does.

    Args:
        pixels: (frames, height, width, 3).

    Returns:
        (N, 3·T·P·P), elements by channel, frame, row, column; and the grid of patches.
    """
    span, merge, size = config.temporal_patch_size, config.merge_size, config.patch_size
    short = -len(pixels) % span
    if short:
        pixels = torch.cat((pixels, pixels[-1:].expand(short, -1, -1, -1)))
    frames, height, width, channels = pixels.shape
    grid = (frames // span, height // size, width // size)
    split = pixels.reshape(
        grid[0], span, grid[1] // merge, merge, size, grid[2] // merge, merge, size, channels
    )
    blocks_first = split.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return blocks_first.reshape(grid[0] * grid[1] * grid[2], -1), grid


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
    """Attention and gated MLP, each behind a norm and added to its input."""

    def __init__(self, config: QwenTowerConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.norm1 = RMSNorm(size, NORM_EPS, dtype=dtype, device=device)
        self.qkv = Linear(size, 3 * size, bias=True, dtype=dtype, device=device)
        self.proj = Linear(size, size, bias=True, dtype=dtype, device=device)
        self.norm2 = RMSNorm(size, NORM_EPS, dtype=dtype, device=device)
        self.mlp = GatedMLP(
            size,
            config.intermediate_size,
            config.activation,
            bias=True,
            dtype=dtype,
            device=device,
        )

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor], borders: list[int]) -> Tensor:
        """(N, hidden), attention inside each segment between ``borders`` → the same shape."""
        q, k, v = self.qkv(self.norm1(x)).view(len(x), 3, self.num_heads, -1).unbind(1)
        q = apply_rope(q.float(), *tables).to(v.dtype)
        k = apply_rope(k.float(), *tables).to(v.dtype)
        x = x + self.proj(varlen_attention(q, k, v, borders).flatten(1))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Merger(nn.Module):
    """A block's patches side by side, through two linear layers to the decoder's width."""

    def __init__(self, config: QwenTowerConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.merged_size = config.hidden_size * config.merge_size**2
        self.ln_q = RMSNorm(config.hidden_size, NORM_EPS, dtype=dtype, device=device)
        self.fc1 = Linear(self.merged_size, self.merged_size, bias=True, dtype=dtype, device=device)
        self.fc2 = Linear(self.merged_size, config.out_size, bias=True, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(N, hidden) → (N/m², out_size)."""
        merged = self.ln_q(x).view(-1, self.merged_size)
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(merged)))
        return out


def build_qwen_tower(context: EncoderContext) -> QwenTower:
    """The tower that ``config.json`` describes, its weights yet to come.

    Raises:
        ConfigError: its output isn't as wide as the decoder.
    """
    config = read_tower_config(context.config)
    if config.out_size != context.decoder.hidden_size:
        raise ConfigError(
            f"config.json: vision_config: out_hidden_size is {config.out_size}; the decoder's "
            f"hidden_size is {context.decoder.hidden_size}."
        )
    normalisation = read_normalisation(image_processor(context.processor))
    return QwenTower(config, normalisation, context.dtype, context.device)


#: Published names (``visual.``) and transformers 5's in memory (``model.visual.``).
_TOWER = r"(?:model\.)?visual\."
QWEN_TOWER_WEIGHTS = WeightMap(
    (
        WeightRule(rf"{_TOWER}patch_embed\.proj\.weight", "patch_embedding"),
        WeightRule(rf"{_TOWER}blocks\.(\d+)\.attn\.(\w+\.\w+)", r"blocks.\1.\2"),
        WeightRule(rf"{_TOWER}blocks\.(\d+)\.((?:norm[12]|mlp\.\w+)\.\w+)", r"blocks.\1.\2"),
        WeightRule(rf"{_TOWER}merger\.ln_q\.weight", "merger.ln_q.weight"),
        WeightRule(rf"{_TOWER}merger\.mlp\.0\.(\w+)", r"merger.fc1.\1"),
        WeightRule(rf"{_TOWER}merger\.mlp\.2\.(\w+)", r"merger.fc2.\1"),
        # Follows from the config.
        WeightRule(rf"{_TOWER}rotary_pos_emb\.inv_freq", None),
    )
)
