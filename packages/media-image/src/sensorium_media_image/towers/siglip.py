"""SigLIP's trunk (Zhai et al. 2023): pixels to rows, as MiniCPM-V and LLaVA-OneVision read it.

A vision transformer without a class token. The families differ in where a patch's position comes
from, in which layer they read and in what they make of the rows; that is theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sensorium.models.layers import Embedding
from sensorium.ops import Segments
from sensorium.plugins.encoder import WeightRule
from sensorium_media_image.towers.clip import ClipConfig, ClipLayer

#: The published class's default.
NORM_EPS = 1e-6
ACTIVATION = "gelu_pytorch_tanh"


class SiglipTrunk(nn.Module):
    """Patches, positions and layers. Parameters are created empty.

    Args:
        clip: the shape; ``image_size`` is the side of what the position table was learnt on.
    """

    def __init__(self, clip: ClipConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        size, patch = clip.hidden_size, clip.patch_size
        self.patch_size = patch
        self.patch_embedding = nn.Parameter(
            torch.empty(size, 3, patch, patch, dtype=dtype, device=device)
        )
        self.patch_bias = nn.Parameter(torch.empty(size, dtype=dtype, device=device))
        self.position_embedding = Embedding(clip.num_patches, size, dtype=dtype, device=device)
        self.layers = nn.ModuleList(ClipLayer(clip, dtype, device) for _ in range(clip.num_layers))

    def embed(self, patches: Tensor, places: Tensor | None = None) -> Tensor:
        """Patches with their positions.

        Args:
            patches: (B, patches, 3·P·P) float32, normalised.
            places: (patches,) the table's row for each; None: the table from its first row on.

        Returns:
            (B · patches, hidden), by item and row.
        """
        table = self.position_embedding.weight
        x = nn.functional.linear(
            patches.to(table.dtype), self.patch_embedding.flatten(1), self.patch_bias
        )
        return (x + (table if places is None else table[places])).flatten(0, 1)

    def run(self, rows: Tensor, segments: Segments) -> Tensor:
        """(N, hidden), each view a segment → the same shape, behind the last layer that is run."""
        for layer in self.layers:
            rows = layer(rows, segments)
        return rows


def siglip_rules(tower: str, clip: ClipConfig) -> list[WeightRule]:
    """Published names behind ``tower``, a regular expression → the trunk's.

    ``post_layernorm`` is left to the family, which reads it or doesn't.
    """
    layer = rf"{tower}encoder\.layers\."
    rules = [
        WeightRule(rf"{tower}embeddings\.patch_embedding\.weight", "patch_embedding"),
        WeightRule(rf"{tower}embeddings\.patch_embedding\.bias", "patch_bias"),
        WeightRule(rf"{tower}embeddings\.(position_embedding\.weight)", r"\1"),
        WeightRule(rf"{layer}(\d+)\.(?:self_attn|mlp)\.(\w+\.\w+)", r"layers.\1.\2"),
        WeightRule(rf"{layer}(\d+)\.(layer_norm[12]\.\w+)", r"layers.\1.\2"),
        # Derived from the config.
        WeightRule(rf"{tower}embeddings\.position_ids", None),
    ]
    unused = "|".join(str(i) for i in range(clip.num_layers, clip.num_stored_layers))
    if unused:
        rules.insert(0, WeightRule(rf"{layer}(?:{unused})\..*", None))
    return rules
