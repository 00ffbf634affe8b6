"""MiniCPM-V-2.6's tower: SigLIP on views of any size, and a resampler to a fixed number of rows.

Takes uint8 views and slices of whole patches, of several items and sizes at once. Positions come
from a learnt square table, to which a view's own grid is fitted (NaViT, Dehghani et al. 2023).
Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from sensorium.errors import ConfigError
from sensorium.models.layers import Linear
from sensorium.ops import Segments
from sensorium.plugins.context import EncoderContext
from sensorium.plugins.encoder import EncoderOutput, WeightMap, WeightRule
from sensorium.types import Features
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.pieces import piece_views
from sensorium_media_image.towers.clip import ClipConfig
from sensorium_media_image.towers.normalise import Normalisation
from sensorium_media_image.towers.siglip import ACTIVATION, NORM_EPS, SiglipTrunk, siglip_rules

#: Channels of a head of the resampler.
RESAMPLER_HEAD = 128
_VIEWS = ("view", "slices")
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class MiniCPMVConfig:
    """The tower's shape.

    Attributes:
        trunk: SigLIP's; ``image_size`` is the side of what the position table was learnt on.
        num_queries: rows of a view.
        out_size: the decoder's width.
    """

    trunk: ClipConfig
    num_queries: int
    out_size: int

    @property
    def table_side(self) -> int:
        """Of the position table, in patches."""
        return self.trunk.image_size // self.trunk.patch_size


def read_minicpmv_config(config: Mapping[str, Any]) -> MiniCPMVConfig:
    """Reads ``config.json``.

    Raises:
        ConfigError: a value that isn't built, by name.
    """
    whole = Section(config, "config.json")
    section = whole.sub("vision_config")
    section.require("num_channels", 3)
    num_layers = section.integer("num_hidden_layers", 27)
    # The published class drops the last layer by default; the published file doesn't.
    dropped = config.get("drop_vision_last_layer", True)
    trunk = ClipConfig(
        hidden_size=section.integer("hidden_size", 1152),
        intermediate_size=section.integer("intermediate_size", 4304),
        num_heads=section.integer("num_attention_heads", 16),
        num_layers=num_layers - int(bool(dropped)),
        num_stored_layers=num_layers,
        image_size=section.integer("image_size", 980),
        patch_size=section.integer("patch_size", 14),
        norm_eps=section.number("layer_norm_eps", NORM_EPS),
        activation=section.text("hidden_act", ACTIVATION),
        keep_class=False,
        projector_activation="gelu",
        projector_bias=True,
    )
    tower = MiniCPMVConfig(
        trunk, whole.integer("query_num", 64), whole.integer("hidden_size", 3584)
    )
    if tower.out_size % RESAMPLER_HEAD or trunk.hidden_size % trunk.num_heads:
        raise ConfigError(
            f"config.json: hidden_size {tower.out_size} must be a multiple of {RESAMPLER_HEAD}, "
            f"and vision_config's {trunk.hidden_size} of its {trunk.num_heads} heads."
        )
    return tower


@lru_cache(maxsize=256)
def position_ids(rows: int, columns: int, side: int) -> Tensor:
    """(rows · columns,) int64: the table's row for each patch of a grid, on the CPU.

    The published code computes fractions of the side by ``arange`` in float32, and where rounding
    makes one of them meet a border of the table it falls beside it (25, 49, 50, 55 patches …):
    k / n would choose another row there.
    """
    borders = torch.arange(1 / side, 1.0, 1 / side)
    down, across = (
        torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / n), borders, right=True)
        for n in (rows, columns)
    )
    return (down[:, None] * side + across).flatten()


@lru_cache(maxsize=64)
def sincos_positions(rows: int, columns: int, size: int) -> Tensor:
    """(rows · columns, size) float32 on the CPU: the column's in the first half, then the row's.

    Each half holds sines, then cosines, of the position over 10000^(i / (size / 4)).
    """
    quarter = size // 4
    frequencies = 1.0 / 10000.0 ** (torch.arange(quarter, dtype=torch.float32) / quarter)

    def encoded(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float32)[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=1)

    across = encoded(columns)[None].expand(rows, -1, -1)
    down = encoded(rows)[:, None].expand(-1, columns, -1)
    return torch.cat((across, down), dim=2).flatten(0, 1)


class MiniCPMVTower(SiglipTrunk):
    """Views to embedding rows of the decoder's width. Parameters are created empty."""

    def __init__(
        self,
        config: MiniCPMVConfig,
        normalisation: Normalisation,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(config.trunk, dtype, device)
        self.config = config
        self.normalisation = normalisation
        trunk, size = config.trunk, config.trunk.hidden_size
        self.post_layernorm = nn.LayerNorm(size, trunk.norm_eps, dtype=dtype, device=device)
        self.resampler = Resampler(config, dtype, device)

    @torch.no_grad()
    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        """Encodes images and clips.

        Args:
            items: each with "view" (n, h, w, 3) and, if it is sliced, "slices" (n · k, h, w, 3),
                uint8: n is 1 for an image and the number of frames for a clip; the slices of a
                frame follow one another.

        Returns:
            For each (n · num_queries · (1 + k), out_size) in the tower's dtype, by frame.
        """
        if not items:
            return []
        batches = [item[name] for item in items for name in _VIEWS if name in item]
        resampled = iter(self._encode(batches))
        outputs = []
        for item in items:
            frames = len(item["view"])
            parts = [_by_frame(next(resampled), frames) for name in _VIEWS if name in item]
            outputs.append(EncoderOutput(torch.cat(parts, dim=1).flatten(0, 2)))
        return outputs

    def encode_piece(self, item: Features, piece: int, num_pieces: int) -> EncoderOutput:
        """The rows of a run of a clip's frames."""
        frames = len(item["view"])
        start, stop = piece_views(frames, piece, num_pieces)
        run = {
            name: _by_frame(item[name], frames)[start:stop].flatten(0, 1)
            for name in _VIEWS
            if name in item
        }
        (output,) = self.forward([run])
        return output

    def _encode(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Each (B, h, w, 3) uint8 → (B, num_queries, out_size)."""
        patch, device = self.patch_size, self.post_layernorm.weight.device
        grids = [(b.shape[1] // patch, b.shape[2] // patch) for b in batches]
        counts = [
            len(b) * rows * columns for b, (rows, columns) in zip(batches, grids, strict=True)
        ]
        embedded = []
        for batch, grid in zip(batches, grids, strict=True):
            places = position_ids(*grid, self.config.table_side).to(device)
            embedded.append(self.embed(self.normalisation.patches(batch, patch, device), places))
        bounds = [0]
        for batch, (down, across) in zip(batches, grids, strict=True):
            for _ in range(len(batch)):
                bounds.append(bounds[-1] + down * across)
        rows = self.run(torch.cat(embedded), Segments(bounds, device))
        rows = self.resampler.project(self.post_layernorm(rows))
        return [
            self.resampler(part.view(len(batch), -1, part.shape[1]), grid)
            for part, batch, grid in zip(torch.split(rows, counts), batches, grids, strict=True)
        ]


def _by_frame(views: Tensor, frames: int) -> Tensor:
    """(frames · n, …) → (frames, n, …)."""
    return views.view(frames, -1, *views.shape[1:])


class Resampler(nn.Module):
    """A fixed number of learnt queries that attend over a view's patches (Yao et al. 2024)."""

    def __init__(self, config: MiniCPMVConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        size = config.out_size
        self.num_heads = size // RESAMPLER_HEAD
        self.query = nn.Parameter(torch.empty(config.num_queries, size, dtype=dtype, device=device))
        self.kv_proj = Linear(
            config.trunk.hidden_size, size, bias=False, dtype=dtype, device=device
        )
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size, dtype=dtype, device=device))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * size, dtype=dtype, device=device))
        self.out_proj = Linear(size, size, bias=True, dtype=dtype, device=device)
        self.ln_q = nn.LayerNorm(size, NORM_EPS, dtype=dtype, device=device)
        self.ln_kv = nn.LayerNorm(size, NORM_EPS, dtype=dtype, device=device)
        self.ln_post = nn.LayerNorm(size, NORM_EPS, dtype=dtype, device=device)
        self.proj = nn.Parameter(torch.empty(size, size, dtype=dtype, device=device))

    def project(self, rows: Tensor) -> Tensor:
        """(N, tower's width) → (N, size), normed: what keys and values are made of."""
        out: Tensor = self.ln_kv(self.kv_proj(rows))
        return out

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, patches, size) of one grid → (B, queries, size). Values carry no positions."""
        size = x.shape[2]
        positions = sincos_positions(*grid, size).to(x.device, x.dtype)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        inputs = (self.ln_q(self.query)[None].expand(len(x), -1, -1), x + positions, x)
        q, k, v = (
            nn.functional.linear(given, weight, bias)
            .view(len(x), -1, self.num_heads, RESAMPLER_HEAD)
            .transpose(1, 2)
            for given, weight, bias in zip(inputs, weights, biases, strict=True)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.ln_post(self.out_proj(attended.transpose(1, 2).flatten(2))) @ self.proj
        return out


def read_siglip_normalisation(processor: Mapping[str, Any]) -> Normalisation:
    """From ``preprocessor_config.json``, whose names are ``norm_mean`` and ``norm_std``."""
    section = Section(image_processor(processor), "preprocessor_config.json")
    section.require("norm_mean", list(SIGLIP_MEAN))
    section.require("norm_std", list(SIGLIP_STD))
    return Normalisation(mean=SIGLIP_MEAN, std=SIGLIP_STD)


def build_minicpmv_tower(context: EncoderContext) -> MiniCPMVTower:
    """The tower that a MiniCPM-V's ``config.json`` describes, its weights yet to come."""
    return MiniCPMVTower(
        read_minicpmv_config(context.config),
        read_siglip_normalisation(context.processor),
        context.dtype,
        context.device,
    )


def minicpmv_weights(config: Mapping[str, Any]) -> WeightMap:
    """Published names → the tower's."""
    rules = [
        *siglip_rules(r"vpm\.", read_minicpmv_config(config).trunk),
        WeightRule(r"vpm\.(post_layernorm\.(?:weight|bias))", r"\1"),
        WeightRule(r"resampler\.attn\.(in_proj_weight|in_proj_bias)", r"resampler.\1"),
        WeightRule(r"resampler\.attn\.(out_proj\.(?:weight|bias))", r"resampler.\1"),
        WeightRule(r"(resampler\.(?:query|proj|kv_proj\.weight))", r"\1"),
        WeightRule(r"(resampler\.ln_(?:q|kv|post)\.(?:weight|bias))", r"\1"),
        # Follows from the grid.
        WeightRule(r"resampler\.pos_embed", None),
    ]
    return WeightMap(tuple(rules))
