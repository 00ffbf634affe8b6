"""CLIP's tower (Radford et al. 2021): alone, and with LLaVA-1.5's projector behind it.

Takes squares of pixels and returns one row a patch, read from a layer before the last. Layers
behind that one are neither built nor loaded. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sensorium.errors import ConfigError
from sensorium.models.layers import Embedding, FusedLinear, Linear
from sensorium.ops import Segments, varlen_attention
from sensorium.plugins.context import EncoderContext
from sensorium.plugins.encoder import EncoderOutput, WeightMap, WeightRule
from sensorium.types import Features
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.towers.activations import activation
from sensorium_media_image.towers.normalise import Normalisation, read_normalisation


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """The tower's shape, and which of its layers is read.

    Attributes:
        num_layers: layers that are run.
        num_stored_layers: layers of the checkpoint, those that no result depends on included.
        keep_class: whether the class token's row is part of the embedding.
        image_size, patch_size: in pixels.
        projector_activation, projector_bias: of the projector to the decoder's width.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    num_stored_layers: int
    image_size: int
    patch_size: int
    norm_eps: float
    activation: str
    keep_class: bool
    projector_activation: str
    projector_bias: bool

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Rows of an item's embedding."""
        return self.num_patches + int(self.keep_class)


def read_clip_config(config: Mapping[str, Any]) -> ClipConfig:
    """Reads a LLaVA's ``config.json``; what it leaves out is the published class's default.

    LLaVA's own class fills ``vision_config`` with CLIP-L/14-336 only where there is none at
    all; inside one, CLIP's class has the defaults (ViT-B/32).

    Raises:
        ConfigError: a value that isn't built, by name.
    """
    whole = Section(config, "config.json")
    section = whole.sub("vision_config")
    large = not section.values
    section.require("model_type", "clip_vision_model")
    section.require("num_channels", 3)
    num_layers = section.integer("num_hidden_layers", 24 if large else 12)
    strategy = whole.text("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise ConfigError(
            f"config.json: vision_feature_select_strategy is {strategy!r}; "
            "only 'default' or 'full' is built."
        )
    clip = ClipConfig(
        hidden_size=section.integer("hidden_size", 1024 if large else 768),
        intermediate_size=section.integer("intermediate_size", 4096 if large else 3072),
        num_heads=section.integer("num_attention_heads", 16 if large else 12),
        num_layers=used_layers(config.get("vision_feature_layer"), num_layers),
        num_stored_layers=num_layers,
        image_size=section.integer("image_size", 336 if large else 224),
        patch_size=section.integer("patch_size", 14 if large else 32),
        norm_eps=section.number("layer_norm_eps", 1e-5),
        activation=section.text("hidden_act", "quick_gelu"),
        keep_class=strategy == "full",
        projector_activation=whole.text("projector_hidden_act", "gelu"),
        projector_bias=whole.boolean("multimodal_projector_bias", default=True),
    )
    if clip.hidden_size % clip.num_heads:
        raise ConfigError(
            f"{section.name}: hidden_size {clip.hidden_size} is no multiple of "
            f"num_attention_heads {clip.num_heads}."
        )
    return clip


def used_layers(feature_layer: object, num_layers: int) -> int:
    """How many layers run for ``hidden_states[feature_layer]``, of num_layers + 1 of them."""
    layer = -2 if feature_layer is None else feature_layer
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise ConfigError(
            f"config.json: vision_feature_layer is {layer!r}; only one layer's number is built."
        )
    index = layer if layer >= 0 else num_layers + 1 + layer
    if not 0 <= index <= num_layers:
        raise ConfigError(
            f"config.json: vision_feature_layer is {layer}; the tower has {num_layers} layers."
        )
    return index


class ClipTrunk(nn.Module):
    """Normalised squares to the rows of the layer that counts. Parameters are created empty."""

    def __init__(self, config: ClipConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.config = config
        size, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(size, dtype=dtype, device=device))
        self.patch_embedding = nn.Parameter(
            torch.empty(size, 3, patch, patch, dtype=dtype, device=device)
        )
        self.position_embedding = Embedding(
            config.num_patches + 1, size, dtype=dtype, device=device
        )
        self.pre_layernorm = nn.LayerNorm(size, config.norm_eps, dtype=dtype, device=device)
        self.layers = nn.ModuleList(
            ClipLayer(config, dtype, device) for _ in range(config.num_layers)
        )

    def features(self, patches: Tensor) -> Tensor:
        """(B, patches, 3·P·P) float32, normalised, of squares → (B, num_tokens, hidden)."""
        x = self.embed(patches)
        batch, length, _ = x.shape
        segments = Segments([length * i for i in range(batch + 1)], x.device)
        rows = x.flatten(0, 1)
        for layer in self.layers:
            rows = layer(rows, segments)
        x = rows.view(batch, length, -1)
        return x if self.config.keep_class else x[:, 1:]

    def embed(self, patches: Tensor) -> Tensor:
        """(B, patches, 3·P·P) → (B, patches + 1, hidden): patches, class, positions, norm."""
        weight = self.patch_embedding
        x = nn.functional.linear(patches.to(weight.dtype), weight.flatten(1))
        first = self.class_embedding.expand(len(x), 1, -1)
        x = torch.cat((first, x), dim=1) + self.position_embedding.weight
        normed: Tensor = self.pre_layernorm(x)
        return normed


class ClipTower(ClipTrunk):
    """Pixels to embedding rows of the decoder's width.

    Args:
        config: the shape.
        out_size: the decoder's width.
        normalisation: of the pixels.
    """

    def __init__(
        self,
        config: ClipConfig,
        out_size: int,
        normalisation: Normalisation,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(config, dtype, device)
        self.normalisation = normalisation
        self.projector = Projector(config, out_size, dtype, device)

    @torch.no_grad()
    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        """Encodes items with "pixels" (image_size, image_size, 3) uint8.

        Returns:
            For each (num_tokens, out_size) in the tower's dtype.
        """
        if not items:
            return []
        pixels = torch.stack([item["pixels"] for item in items])
        device = self.patch_embedding.device
        x = self.features(self.normalisation.patches(pixels, self.config.patch_size, device))
        return [EncoderOutput(embeds) for embeds in self.projector(x)]


class ClipLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to its input."""

    def __init__(self, config: ClipConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        eps = config.norm_eps
        self.num_heads = config.num_heads
        self.layer_norm1 = nn.LayerNorm(size, eps, dtype=dtype, device=device)
        parts = {"q_proj": size, "k_proj": size, "v_proj": size}
        self.qkv_proj = FusedLinear(size, parts, bias=True, dtype=dtype, device=device)
        self.out_proj = Linear(size, size, bias=True, dtype=dtype, device=device)
        self.layer_norm2 = nn.LayerNorm(size, eps, dtype=dtype, device=device)
        self.fc1 = Linear(size, inner, bias=True, dtype=dtype, device=device)
        self.fc2 = Linear(inner, size, bias=True, dtype=dtype, device=device)
        self.activation = activation(config.activation, "config.json: vision_config: hidden_act")

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(N, hidden), each item a segment → the same shape."""
        parts = self.qkv_proj(self.layer_norm1(x))
        q, k, v = (part.reshape(len(x), self.num_heads, -1) for part in parts)
        x = x + self.out_proj(varlen_attention(q, k, v, segments).flatten(1))
        out: Tensor = x + self.fc2(self.activation(self.fc1(self.layer_norm2(x))))
        return out


class Projector(nn.Module):
    """Two linear layers from the tower's width to the decoder's."""

    def __init__(
        self, config: ClipConfig, out_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        bias = config.projector_bias
        self.linear_1 = Linear(config.hidden_size, out_size, bias=bias, dtype=dtype, device=device)
        self.linear_2 = Linear(out_size, out_size, bias=bias, dtype=dtype, device=device)
        self.activation = activation(
            config.projector_activation, "config.json: projector_hidden_act"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, tower's width) → (…, decoder's width)."""
        out: Tensor = self.linear_2(self.activation(self.linear_1(x)))
        return out


def build_clip_tower(context: EncoderContext) -> ClipTower:
    """The tower that a LLaVA's ``config.json`` describes, its weights yet to come."""
    return ClipTower(
        read_clip_config(context.config),
        context.decoder.hidden_size,
        read_normalisation(image_processor(context.processor)),
        context.dtype,
        context.device,
    )


def clip_weights(config: Mapping[str, Any]) -> WeightMap:
    """Published names → the tower's.

    Three spellings: the published one (``vision_tower.vision_model.``), transformers 5's in
    memory (``model.vision_tower.``), and the hybrid that it writes (``vision_tower.``).
    """
    projector = WeightRule(
        r"(?:model\.)?multi_modal_projector\.(linear_[12]\.(?:weight|bias))", r"projector.\1"
    )
    tower = r"(?:model\.)?vision_tower\.(?:vision_model\.)?"
    return WeightMap((*trunk_rules(tower, read_clip_config(config)), projector))


def trunk_rules(tower: str, clip: ClipConfig) -> tuple[WeightRule, ...]:
    """Published names behind ``tower``, a regular expression → the trunk's."""
    layer = rf"{tower}encoder\.layers\."
    unused = "|".join(str(i) for i in range(clip.num_layers, clip.num_stored_layers))
    rules = [
        WeightRule(rf"{tower}embeddings\.patch_embedding\.weight", "patch_embedding"),
        WeightRule(rf"{tower}embeddings\.(class_embedding|position_embedding\.weight)", r"\1"),
        # The misspelling is the published one.
        WeightRule(rf"{tower}pre_layrnorm\.(weight|bias)", r"pre_layernorm.\1"),
        WeightRule(rf"{layer}(\d+)\.(?:self_attn|mlp)\.(\w+\.\w+)", r"layers.\1.\2"),
        WeightRule(rf"{layer}(\d+)\.(layer_norm[12]\.\w+)", r"layers.\1.\2"),
        # Behind the layer that is read, or derived from the config: nothing depends on them.
        WeightRule(rf"{tower}post_layernorm\.(?:weight|bias)", None),
        WeightRule(rf"{tower}embeddings\.position_ids", None),
    ]
    if unused:
        rules.insert(0, WeightRule(rf"{layer}(?:{unused})\..*", None))
    return tuple(rules)
