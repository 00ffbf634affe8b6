"""The towers of Qwen2-VL and Qwen2.5-VL, against transformers' on random tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_backends import TOWER, Attention
from family_helpers import load_tower, open_folder, random_image, raw_patches
from tiny_checkpoints import make_qwen2vl, make_qwen25vl

from sensorium.errors import ConfigError
from sensorium_media_image.families.qwen_vl import QwenVLFamily
from sensorium_media_image.manifests import load_manifest
from sensorium_media_image.towers.normalise import Normalisation
from sensorium_media_image.towers.qwen_config import QWEN2_5_VL, QWEN2_VL, read_tower_config

FAMILY = QwenVLFamily()
CONFIG = read_tower_config(load_manifest("qwen2_5_vl_3b").config, QWEN2_5_VL)
Maker = Callable[..., Path]
both = pytest.mark.parametrize("make", [make_qwen2vl, make_qwen25vl])
#: (height, width) in pixels: one window, several, and windows cut off at both edges.
SIZES = [(56, 56), (28, 140), (252, 140), (112, 224), (364, 252)]


def frames(height: int, width: int, seed: int, count: int = 1) -> torch.Tensor:
    parts = [random_image(height, width, seed * 100 + i) for i in range(count)]
    return torch.from_numpy(np.stack(parts))


def reference_embeds(
    folder: Path, pixels: list[torch.Tensor], dtype: torch.dtype
) -> list[torch.Tensor]:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
    rows, grids = zip(*(raw_patches(p, CONFIG) for p in pixels), strict=True)
    mean, std = Normalisation().constants(torch.device("cpu"))
    values = torch.cat(rows).view(-1, 3, rows[0].shape[1] // 3).float()
    values = (values - mean[:, None]) / std[:, None]
    with torch.no_grad():
        features = model.model.get_image_features(values.flatten(1), torch.tensor(grids))
    return list(features.pooler_output)


@both
def test_embeddings_are_those_of_transformers_for_mixed_sizes(
    make: Maker, tmp_path: Path, attention: Attention
) -> None:
    folder = make(tmp_path, seed=1)
    tower = load_tower(FAMILY, open_folder(folder))
    pixels = [frames(*size, seed) for seed, size in enumerate(SIZES)]
    pixels.append(frames(84, 140, 9, count=5))
    ours = tower([{"pixels": p} for p in pixels])
    attention.assert_ran(*TOWER, "rope")
    for out, reference in zip(ours, reference_embeds(folder, pixels, torch.float32), strict=True):
        assert out.embeds.shape == reference.shape
        torch.testing.assert_close(out.embeds, reference, atol=1e-5, rtol=1e-6)


def test_patches_are_those_of_transformers() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    processor = Qwen2VLImageProcessorPil(do_resize=False, do_rescale=False, do_normalize=False)
    for seed, size in enumerate(SIZES):
        pixels = frames(*size, seed)
        batch = processor(pixels[0].numpy(), return_tensors="pt")
        rows, grid = raw_patches(pixels, CONFIG)
        assert list(grid) == batch["image_grid_thw"][0].tolist()
        assert torch.equal(rows, batch["pixel_values"].float())


@both
def test_bfloat16_is_as_far_from_float32_as_transformers_is(
    make: Maker, tmp_path: Path, attention: Attention
) -> None:
    folder = make(tmp_path, seed=2)
    pixels = [frames(*size, seed) for seed, size in enumerate(SIZES)]
    tower = load_tower(FAMILY, open_folder(folder), torch.bfloat16)
    ours = torch.cat([out.embeds for out in tower([{"pixels": p} for p in pixels])])
    attention.assert_ran(*TOWER, "rope")
    exact = torch.cat(reference_embeds(folder, pixels, torch.float32))
    theirs = torch.cat(reference_embeds(folder, pixels, torch.bfloat16))
    assert ours.dtype == torch.bfloat16
    error, allowed = (ours - exact).abs().mean(), (theirs - exact).abs().mean()
    assert error <= 1.25 * allowed


@both
def test_an_item_does_not_depend_on_its_batch_mates(
    make: Maker, tmp_path: Path, attention: Attention
) -> None:
    tower = load_tower(FAMILY, open_folder(make(tmp_path)))
    items = [{"pixels": frames(*size, seed)} for seed, size in enumerate(SIZES)]
    together = tower(items)
    attention.assert_ran(*TOWER, "rope")
    for item, out in zip(items, together, strict=True):
        # A product of few rows sums in another order than one of many.
        torch.testing.assert_close(tower([item])[0].embeds, out.embeds, atol=1e-5, rtol=1e-5)
    assert tower([]) == []


@pytest.mark.gpu
@both
def test_the_accelerator_gives_what_the_cpu_gives(make: Maker, tmp_path: Path) -> None:
    checkpoint = open_folder(make(tmp_path))
    items = [{"pixels": frames(*size, seed)} for seed, size in enumerate(SIZES)]
    expected = load_tower(FAMILY, checkpoint)(items)
    ours = load_tower(FAMILY, checkpoint, device="cuda")(items)
    for out, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(out.embeds.cpu(), reference.embeds, atol=1e-4, rtol=1e-4)


def test_the_published_configs_are_read() -> None:
    assert (CONFIG.hidden_size, CONFIG.intermediate_size, CONFIG.num_heads) == (1280, 3420, 16)
    assert (CONFIG.num_layers, CONFIG.out_size, CONFIG.window_blocks) == (32, 2048, 4)
    assert CONFIG.full_layers == {7, 15, 23, 31}
    older = read_tower_config(load_manifest("qwen2_vl_2b").config, QWEN2_VL)
    assert (older.hidden_size, older.intermediate_size, older.num_heads) == (1280, 5120, 16)
    assert (older.num_layers, older.out_size, older.window_blocks) == (32, 1536, 0)
    assert older.activation == "quick_gelu"
    assert all(older.is_full(layer) for layer in range(32))


def test_what_a_config_omits_is_the_published_default() -> None:
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

    newer, published = read_tower_config({}, QWEN2_5_VL), Qwen2_5_VLVisionConfig()
    assert newer.hidden_size == published.hidden_size
    assert newer.intermediate_size == published.intermediate_size
    assert newer.out_size == published.out_hidden_size
    assert newer.window_size == published.window_size
    assert newer.full_layers == set(published.fullatt_block_indexes)
    older, published_older = read_tower_config({}, QWEN2_VL), Qwen2VLVisionConfig()
    assert older.hidden_size == published_older.embed_dim
    assert older.intermediate_size == published_older.embed_dim * published_older.mlp_ratio
    assert older.out_size == published_older.hidden_size
    for tower, reference in ((newer, published), (older, published_older)):
        assert tower.num_heads == reference.num_heads
        assert tower.num_layers == reference.depth
        assert tower.patch_size == reference.patch_size
        assert tower.temporal_patch_size == reference.temporal_patch_size
        assert tower.merge_size == reference.spatial_merge_size
        assert tower.activation == reference.hidden_act


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        (QWEN2_5_VL, {"in_channels": 1}, "in_channels is 1; only 3 is built"),
        (QWEN2_5_VL, {"hidden_size": 40}, "hidden_size 40 is no multiple of four times"),
        (QWEN2_5_VL, {"window_size": 14}, "window_size 14 is smaller than a block"),
        (QWEN2_5_VL, {"fullatt_block_indexes": 7}, "fullatt_block_indexes is 7"),
        (QWEN2_5_VL, {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        (QWEN2_5_VL, {"depth": "32"}, "depth is '32'; it must be an integer"),
        (QWEN2_VL, {"in_chans": 4}, "in_chans is 4; only 3 is built"),
        (QWEN2_VL, {"embed_dim": 40}, "embed_dim 40 is no multiple of four times"),
        (QWEN2_VL, {"mlp_ratio": 2.5}, "mlp_ratio is 2.5; it must be an integer"),
    ],
)
def test_what_is_not_built_is_refused_by_name(
    architecture: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_tower_config({"vision_config": changes}, architecture)


def test_an_unknown_activation_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_qwen2vl(tmp_path)
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"embed_dim"', '"hidden_act": "mish", "embed_dim"'))
    with pytest.raises(ConfigError, match="hidden_act is 'mish'; built are"):
        load_tower(FAMILY, open_folder(folder))
