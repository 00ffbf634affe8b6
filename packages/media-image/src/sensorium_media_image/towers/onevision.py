"""LLaVA-OneVision's tower: SigLIP on square views, a projector, ends of lines.

Takes views of an image and where each of its patches lies in them, or a clip's frames. Knows
nothing of prompts, nor of how an image is divided into views.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensorium.errors import ConfigError
from sensorium.ops import Segments
from sensorium.plugins.context import EncoderContext
from sensorium.plugins.encoder import EncoderOutput, WeightMap, WeightRule
from sensorium.types import Features
from sensorium_media_image.anyres import Anyres
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.pieces import piece_views
from sensorium_media_image.towers.clip import ClipConfig, Projector, used_layers
from sensorium_media_image.towers.normalise import Normalisation, read_normalisation
from sensorium_media_image.towers.siglip import ACTIVATION, NORM_EPS, SiglipTrunk, siglip_rules

#: Side of a tile and most tiles along a side, of the published class's allowed sizes.
DEFAULT_TILE, DEFAULT_TILES = 384, 6
_ASPECT_RATIO = re.compile(r"anyres_max_([1-9]\d{0,3})")
#: Views that go through the trunk in one call: 64 of 729 patches are one step of 46,656 rows.
VIEWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class OneVisionConfig:
    """The tower's shape, and the rule for the sizes of images."""

    trunk: ClipConfig
    anyres: Anyres


def read_onevision_config(config: Mapping[str, Any]) -> OneVisionConfig:
    """Reads ``config.json``; what it leaves out is the published classes' default.

    LLaVA-OneVision's own class fills ``vision_config`` only where there is none at all; inside
    one, SigLIP's class has the defaults.

    Raises:
        ConfigError: a value that isn't built, by name.
    """
    whole = Section(config, "config.json")
    section = whole.sub("vision_config")
    large = not section.values
    section.require("model_type", "siglip_vision_model")
    section.require("num_channels", 3)
    whole.require("vision_feature_select_strategy", "full")
    num_layers = section.integer("num_hidden_layers", 26 if large else 12)
    layer = whole.values.get("vision_feature_layer")
    trunk = ClipConfig(
        hidden_size=section.integer("hidden_size", 1152 if large else 768),
        intermediate_size=section.integer("intermediate_size", 4304 if large else 3072),
        num_heads=section.integer("num_attention_heads", 16 if large else 12),
        num_layers=used_layers(-1 if layer is None else layer, num_layers),
        num_stored_layers=num_layers,
        image_size=section.integer("image_size", 384 if large else 224),
        patch_size=section.integer("patch_size", 14 if large else 16),
        norm_eps=section.number("layer_norm_eps", NORM_EPS),
        activation=section.text("hidden_act", ACTIVATION),
        keep_class=False,
        projector_activation=whole.text("projector_hidden_act", "gelu"),
        projector_bias=whole.boolean("multimodal_projector_bias", default=True),
    )
    if trunk.hidden_size % trunk.num_heads:
        raise ConfigError(
            f"{section.name}: hidden_size {trunk.hidden_size} is no multiple of "
            f"num_attention_heads {trunk.num_heads}."
        )
    patches = trunk.image_size // trunk.patch_size
    sizes = read_sizes(whole, trunk.image_size)
    anyres = Anyres(sizes, trunk.image_size, patches, _max_tiles(whole))
    return OneVisionConfig(trunk, anyres)


def read_sizes(section: Section, tile: int) -> tuple[tuple[int, int], ...]:
    """``image_grid_pinpoints``: the allowed (height, width); by default up to six tiles a side.

    Raises:
        ConfigError: no list of pairs, or sizes that are no whole tiles.
    """
    given = section.values.get("image_grid_pinpoints")
    if given is None:
        sides = [DEFAULT_TILE * n for n in range(1, DEFAULT_TILES + 1)]
        given = [[height, width] for height in sides for width in sides]
    if (
        not isinstance(given, Sequence)
        or isinstance(given, str)
        or not given
        or not all(_is_size(size, tile) for size in given)
    ):
        raise ConfigError(
            f"{section.name}: image_grid_pinpoints is {given!r}; it must be a list of [height, "
            f"width] in pixels, multiples of the tower's {tile}."
        )
    return tuple((height, width) for height, width in given)


def _is_size(size: object, tile: int) -> bool:
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        return False
    return all(type(side) is int and side > 0 and side % tile == 0 for side in size)


def _max_tiles(section: Section) -> int:
    given = section.text("vision_aspect_ratio", "anyres_max_9")
    matched = _ASPECT_RATIO.fullmatch(given)
    if matched is None:
        raise ConfigError(
            f"{section.name}: vision_aspect_ratio is {given!r}; only 'anyres_max_' and a number "
            "is built."
        )
    return int(matched[1])


class OneVisionTower(SiglipTrunk):
    """Views to embedding rows of the decoder's width. Parameters are created empty.

    Args:
        config: the shape.
        out_size: the decoder's width.
        normalisation: of the pixels.
    """

    def __init__(
        self,
        config: OneVisionConfig,
        out_size: int,
        normalisation: Normalisation,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(config.trunk, dtype, device)
        self.config = config
        self.normalisation = normalisation
        self.projector = Projector(config.trunk, out_size, dtype, device)
        self.line_end = nn.Parameter(torch.empty(out_size, dtype=dtype, device=device))

    @torch.no_grad()
    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        """Encodes images and clips.

        Args:
            items: an image is "views" (1 + n, S, S, 3) uint8, the whole first, and "places"
                (rows, columns) int32: the image's patches by row and column, as numbers of
                patches in views 1 … n, which follow one another. A clip is "frames"
                (n, S, S, 3) uint8.

        Returns:
            For each (num_tokens, out_size) in the tower's dtype. Of an image, the whole's patches,
            then those of the places, shrunk where there are many, each line with an end; of a
            clip, each frame's patches at half the size, and one end behind the last.
        """
        if not items:
            return []
        device = self.patch_embedding.device
        views = [item["frames" if "frames" in item else "views"].to(device) for item in items]
        rows = torch.split(self.trunk_rows(torch.cat(views)), [len(view) for view in views])
        return [
            self._clip(seen, ends=True)
            if "frames" in item
            else self._image(seen, item["places"].to(device))
            for item, seen in zip(items, rows, strict=True)
        ]

    @torch.no_grad()
    def encode_piece(self, item: Features, piece: int, num_pieces: int) -> EncoderOutput:
        """The rows of a run of a clip's frames; the last one's has the end."""
        frames = item["frames"]
        start, stop = piece_views(len(frames), piece, num_pieces)
        rows = self.trunk_rows(frames[start:stop].to(self.patch_embedding.device))
        return self._clip(rows, ends=piece == num_pieces - 1)

    def _image(self, seen: Tensor, places: Tensor) -> EncoderOutput:
        """(1 + n, patches, width), (rows, columns) → an image's rows."""
        used = torch.cat((seen[0], seen[1:].flatten(0, 1)[places.flatten()]))
        projected = self.projector(used)
        whole, lines = projected[: seen.shape[1]], projected[seen.shape[1] :]
        lines = self._ended(self._shrunk(lines.view(*places.shape, -1)))
        return EncoderOutput(torch.cat((whole, lines)))

    def _clip(self, seen: Tensor, *, ends: bool) -> EncoderOutput:
        """(frames, patches, width) → each frame's rows at half the size, and perhaps an end."""
        side = self.config.anyres.patches
        frames = self.projector(seen).unflatten(1, (side, side))
        half = -(-side // 2)
        rows = resized(frames, (half, half)).flatten(0, 2)
        return EncoderOutput(torch.cat((rows, self.line_end[None])) if ends else rows)

    def trunk_rows(self, views: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 on the device → (B, patches, tower's width)."""
        parts = []
        for part in torch.split(views, VIEWS_AT_ONCE):
            rows = self.embed(self.normalisation.patches(part, self.patch_size, views.device))
            length = len(rows) // len(part)
            segments = Segments([length * i for i in range(len(part) + 1)], views.device)
            parts.append(self.run(rows, segments).view(len(part), length, -1))
        return torch.cat(parts)

    def _shrunk(self, lines: Tensor) -> Tensor:
        """(rows, columns, size) → the same, or fewer of both."""
        size = self.config.anyres.shrunk(*lines.shape[:2])
        return lines if size == lines.shape[:2] else resized(lines[None], size)[0]

    def _ended(self, lines: Tensor) -> Tensor:
        """(rows, columns, size) → (rows · (columns + 1), size)."""
        ends = self.line_end.expand(len(lines), 1, -1)
        return torch.cat((lines, ends), dim=1).flatten(0, 1)


def resized(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, rows, columns, width) → (B, *size, width), bilinear, without antialiasing."""
    planes = nn.functional.interpolate(
        rows.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False
    )
    return planes.permute(0, 2, 3, 1)


def read_onevision_normalisation(processor: Mapping[str, Any]) -> Normalisation:
    """From ``preprocessor_config.json``; what it leaves out is the published class's: CLIP's."""
    return read_normalisation(image_processor(processor))


def build_onevision_tower(context: EncoderContext) -> OneVisionTower:
    """The tower that a LLaVA-OneVision's ``config.json`` describes, its weights yet to come."""
    return OneVisionTower(
        read_onevision_config(context.config),
        context.decoder.hidden_size,
        read_onevision_normalisation(context.processor),
        context.dtype,
        context.device,
    )


def onevision_weights(config: Mapping[str, Any]) -> WeightMap:
    """Published names → the tower's, in the spellings that LLaVA-1.5 has as well."""
    tower = r"(?:model\.)?vision_tower\.(?:vision_model\.)?"
    return WeightMap(
        (
            *siglip_rules(tower, read_onevision_config(config).trunk),
            WeightRule(
                r"(?:model\.)?multi_modal_projector\.(linear_[12]\.(?:weight|bias))",
                r"projector.\1",
            ),
            WeightRule(r"(?:model\.)?image_newline", "line_end"),
            # Behind the layer that is read.
            WeightRule(rf"{tower}(?:post_layernorm|head)\..*", None),
        )
    )
