"""Phi-3.5-vision's tower: CLIP on every tile, features merged, parted and projected.

Takes whole tiles of uint8 pixels. The global view is made here, as the published processor makes
it: bicubic, without antialiasing and without rounding to uint8. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensorium.errors import ConfigError
from sensorium.models.layers import Linear
from sensorium.ops import cubic_sample
from sensorium.plugins.context import EncoderContext
from sensorium.plugins.encoder import EncoderOutput, WeightMap, WeightRule
from sensorium.types import Features
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.towers.clip import ClipConfig, ClipTrunk, trunk_rules
from sensorium_media_image.towers.normalise import Normalisation, read_normalisation

#: The layer that is read, of ``hidden_states``.
FEATURE_LAYER = -2
#: Patches of a block that becomes one row, along each axis.
MERGE = 2
PREFIX = r"model\.vision_embed_tokens\."


@dataclass(frozen=True, slots=True)
class Phi3VConfig:
    """The tower's shape.

    Attributes:
        clip: of the trunk, whose ``image_size`` is a tile's side in pixels.
    """

    clip: ClipConfig

    @property
    def side(self) -> int:
        """Of a tile, in pixels."""
        return self.clip.image_size

    @property
    def merged(self) -> int:
        """Rows of a tile's features along one side."""
        return self.side // self.clip.patch_size // MERGE

    def num_tokens(self, rows: int, columns: int) -> int:
        """Embedding rows of (rows, columns) tiles: these, the global view, and separators.

        A separator ends each line of features, and one stands between tiles and global view.
        """
        m = self.merged
        return (rows * columns + 1) * m * m + 1 + (rows + 1) * m


def read_phi3v_config(config: Mapping[str, Any]) -> Phi3VConfig:
    """Reads ``config.json``.

    ``img_processor`` names the published trunk, CLIP-L/14-336, and its width; where it has further
    entries, named as CLIP's own config names them, they count.

    Raises:
        ConfigError: a value that isn't built, by name.
    """
    whole = Section(config, "config.json")
    layout = whole.sub("embd_layer")
    layout.require("embedding_cls", "image")
    layout.require("hd_transform_order", "sub_glb")
    layout.require("projection_cls", "mlp")
    layout.require("use_hd_transform", True)
    layout.require("with_learnable_separator", True)
    section = whole.sub("img_processor")
    section.require("name", "clip_vision_model")
    section.require("layer_idx", FEATURE_LAYER)
    section.require("type_feature", "patch")
    num_layers = section.integer("num_hidden_layers", 24, at_least=2)
    clip = ClipConfig(
        hidden_size=section.integer("image_dim_out", 1024),
        intermediate_size=section.integer("intermediate_size", 4096),
        num_heads=section.integer("num_attention_heads", 16),
        num_layers=num_layers + 1 + FEATURE_LAYER,
        num_stored_layers=num_layers,
        image_size=section.integer("image_size", 336),
        patch_size=section.integer("patch_size", 14),
        norm_eps=1e-5,
        activation="quick_gelu",
        keep_class=False,
        projector_activation="gelu",
        projector_bias=True,
    )
    if clip.image_size % (MERGE * clip.patch_size) or clip.hidden_size % clip.num_heads:
        raise ConfigError(
            f"{section.name}: image_size {clip.image_size} must be a multiple of "
            f"{MERGE * clip.patch_size}, and image_dim_out {clip.hidden_size} of the "
            f"{clip.num_heads} heads."
        )
    tower = Phi3VConfig(clip)
    section.require("num_img_tokens", tower.merged**2)
    return tower


class Phi3VTower(ClipTrunk):
    """Tiles to embedding rows of the decoder's width. Parameters are created empty.

    Args:
        config: the shape.
        out_size: the decoder's width.
        normalisation: of the pixels.
    """

    def __init__(
        self,
        config: Phi3VConfig,
        out_size: int,
        normalisation: Normalisation,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(config.clip, dtype, device)
        self.tower = config
        self.normalisation = normalisation
        wide = MERGE * MERGE * config.clip.hidden_size
        self.line_end = nn.Parameter(torch.empty(1, 1, 1, wide, dtype=dtype, device=device))
        self.between = nn.Parameter(torch.empty(1, 1, wide, dtype=dtype, device=device))
        self.project_in = Linear(wide, out_size, bias=True, dtype=dtype, device=device)
        self.project_out = Linear(out_size, out_size, bias=True, dtype=dtype, device=device)

    @torch.no_grad()
    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        """Encodes items with "pixels" (rows · side, columns · side, 3) uint8.

        Returns:
            For each (num_tokens, out_size) in the tower's dtype.
        """
        if not items:
            return []
        side, device = self.tower.side, self.patch_embedding.device
        pixels = [item["pixels"].to(device) for item in items]
        grids = [(len(whole) // side, whole.shape[1] // side) for whole in pixels]
        patches = [part for whole in pixels for part in self.patches(whole)]
        merged = merge_blocks(self.features(torch.cat(patches)), self.tower.merged)
        lines = [
            self._lines(part, rows, columns)
            for part, (rows, columns) in zip(
                torch.split(merged, [1 + rows * columns for rows, columns in grids]),
                grids,
                strict=True,
            )
        ]
        hidden = nn.functional.gelu(self.project_in(torch.cat(lines)))
        embeds = torch.split(self.project_out(hidden), [len(line) for line in lines])
        return [EncoderOutput(rows) for rows in embeds]

    def patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised patches of an item: (1, n, 3·P·P) of its global view, (tiles, n, 3·P·P).

        The published view is made of the normalised whole. The weights of a resize add up to one,
        so that the order makes a rounding's difference, and there is less to normalise.
        """
        side, patch = self.tower.side, self.tower.clip.patch_size
        split = pixels.reshape(len(pixels) // side, side, -1, side, 3)
        tiles = split.transpose(1, 2).reshape(-1, side, side, 3)
        view, cut = cubic_sample(pixels, side, side)[None], self.normalisation.patches
        return cut(view, patch, pixels.device), cut(tiles, patch, pixels.device)

    def _lines(self, merged: Tensor, rows: int, columns: int) -> Tensor:
        """(1 + tiles, m, m, wide) → (num_tokens, wide): tiles, a separator, the global view."""
        m, wide = merged.shape[1], merged.shape[3]
        tiles = merged[1:].view(rows, columns, m, m, wide).transpose(1, 2)
        parts = (
            self._ended(tiles.reshape(rows * m, columns * m, wide)),
            self.between.view(1, wide),
            self._ended(merged[0]),
        )
        return torch.cat(parts)

    def _ended(self, lines: Tensor) -> Tensor:
        """(lines, n, wide) → (lines · (n + 1), wide), a separator behind each line."""
        ends = self.line_end.view(1, 1, -1).expand(len(lines), 1, -1)
        return torch.cat((lines, ends), dim=1).flatten(0, 1)


def merge_blocks(x: Tensor, merged: int) -> Tensor:
    """(B, patches, C) → (B, m, m, 4C): blocks of 2×2 patches side by side, by row and column."""
    batch, _, size = x.shape
    split = x.view(batch, merged, MERGE, merged, MERGE, size)
    return split.transpose(2, 3).reshape(batch, merged, merged, -1)


def build_phi3v_tower(context: EncoderContext) -> Phi3VTower:
    """The tower that a Phi-3.5-vision's ``config.json`` describes, its weights yet to come."""
    return Phi3VTower(
        read_phi3v_config(context.config),
        context.decoder.hidden_size,
        read_normalisation(image_processor(context.processor)),
        context.dtype,
        context.device,
    )


def phi3v_weights(config: Mapping[str, Any]) -> WeightMap:
    """Published names → the tower's."""
    clip = read_phi3v_config(config).clip
    return WeightMap(
        (
            *trunk_rules(rf"{PREFIX}img_processor\.vision_model\.", clip),
            WeightRule(rf"{PREFIX}img_projection\.0\.(weight|bias)", r"project_in.\1"),
            WeightRule(rf"{PREFIX}img_projection\.2\.(weight|bias)", r"project_out.\1"),
            WeightRule(rf"{PREFIX}sub_GN", "line_end"),
            WeightRule(rf"{PREFIX}glb_GN", "between"),
        )
    )
