"""Reading the shapes of Qwen2-VL's and Qwen2.5-VL's towers out of ``config.json``.

The two spell them with the same words for different things: ``hidden_size`` is the output width of
Qwen2-VL's tower and the inner width of Qwen2.5-VL's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium.errors import ConfigError
from sensorium_media_image.fields import Section
from sensorium_media_image.patches import PatchShape

QWEN2_VL = "Qwen2VLForConditionalGeneration"
QWEN2_5_VL = "Qwen2_5_VLForConditionalGeneration"

#: The published class writes it into its code.
ROPE_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class QwenTowerConfig:
    """The tower's shape.

    Attributes:
        rms_norm, gated: RMSNorm and a gated MLP, or LayerNorm and a plain one.
        patch_size: side of a patch in pixels; temporal_patch_size: frames it spans.
        merge_size: patches of a block along each axis, m.
        window_size: side of a window in pixels; 0: there are no windows.
        full_layers: layers in which all patches of a frame see each other; None: all.
        out_name: how the config calls ``out_size``.
    """

    rms_norm: bool
    gated: bool
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    out_size: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    window_size: int
    full_layers: frozenset[int] | None
    activation: str
    rope_theta: float
    out_name: str

    @property
    def window_blocks(self) -> int:
        """Blocks of a window along each axis."""
        return self.window_size // self.merge_size // self.patch_size

    @property
    def patches(self) -> PatchShape:
        """How frames are cut."""
        return PatchShape(self.patch_size, self.merge_size, self.temporal_patch_size)

    def is_full(self, layer: int) -> bool:
        """Whether all patches of a frame see each other in this layer."""
        return self.full_layers is None or layer in self.full_layers


def read_tower_config(config: Mapping[str, Any], architecture: str) -> QwenTowerConfig:
    """Reads ``vision_config``; what it leaves out is the published class's default.

    Raises:
        ConfigError: a value that isn't built, by name.
    """
    section = Section(config, "config.json").sub("vision_config")
    section.require("in_channels", 3)
    section.require("in_chans", 3)
    rope = section.sub("rope_parameters")
    rope.require("rope_type", "axial", "default")
    own = _read_qwen2(section) if architecture == QWEN2_VL else _read_qwen2_5(section)
    tower = QwenTowerConfig(
        num_heads=section.integer("num_heads", 16),
        num_layers=section.integer("depth", 32),
        patch_size=section.integer("patch_size", 14),
        temporal_patch_size=section.integer("temporal_patch_size", 2),
        merge_size=section.integer("spatial_merge_size", 2),
        rope_theta=rope.number("rope_theta", ROPE_THETA),
        **own,
    )
    if tower.hidden_size % (4 * tower.num_heads):
        raise ConfigError(
            f"{section.name}: {'hidden_size' if tower.gated else 'embed_dim'} {tower.hidden_size} "
            f"is no multiple of four times num_heads {tower.num_heads}, which rotating by rows and "
            "columns needs."
        )
    if tower.window_size and tower.window_blocks < 1:
        raise ConfigError(
            f"{section.name}: window_size {tower.window_size} is smaller than a block of "
            f"{tower.merge_size} patches of {tower.patch_size} pixels."
        )
    return tower


def _read_qwen2(section: Section) -> dict[str, Any]:
    hidden_size = section.integer("embed_dim", 1280)
    return {
        "rms_norm": False,
        "gated": False,
        "hidden_size": hidden_size,
        "intermediate_size": hidden_size * section.integer("mlp_ratio", 4),
        "out_size": section.integer("hidden_size", 3584),
        "out_name": "hidden_size",
        "window_size": 0,
        "full_layers": None,
        "activation": section.text("hidden_act", "quick_gelu"),
    }


def _read_qwen2_5(section: Section) -> dict[str, Any]:
    return {
        "rms_norm": True,
        "gated": True,
        "hidden_size": section.integer("hidden_size", 3584),
        "intermediate_size": section.integer("intermediate_size", 3420),
        "out_size": section.integer("out_hidden_size", 3584),
        "out_name": "out_hidden_size",
        "window_size": section.integer("window_size", 112),
        "full_layers": _full_layers(section.values.get("fullatt_block_indexes")),
        "activation": section.text("hidden_act", "silu"),
    }


def _full_layers(value: object) -> frozenset[int]:
    layers = [7, 15, 23, 31] if value is None else value
    if not isinstance(layers, Sequence) or not all(isinstance(i, int) for i in layers):
        raise ConfigError(
            f"config.json: vision_config: fullatt_block_indexes is {layers!r}; it must be a "
            "list of layers' numbers."
        )
    return frozenset(layers)
