"""The CLIP tower with its projector, against transformers' on random tiny checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_backends import TOWER, Attention
from family_helpers import load_tower, open_folder, random_image
from tiny_checkpoints import make_llava

from sensorium.errors import ConfigError
from sensorium_media_image.families.llava import LlavaFamily
from sensorium_media_image.manifests import load_manifest
from sensorium_media_image.towers.clip import read_clip_config
from sensorium_media_image.towers.normalise import Normalisation

FAMILY = LlavaFamily()


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reference_embeds(folder: Path, pixels: list[torch.Tensor], **options: Any) -> torch.Tensor:
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder, **options).eval()
    mean, std = Normalisation().constants(torch.device("cpu"))
    values = torch.stack([((p.float() - mean) / std).permute(2, 0, 1) for p in pixels])
    with torch.no_grad():
        features = model.model.get_image_features(pixel_values=values.to(model.dtype))
    return torch.stack(list(features.pooler_output))


def pictures(count: int) -> list[torch.Tensor]:
    return [torch.from_numpy(random_image(56, 56, seed)) for seed in range(count)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_feature_layer": -1},
        {"vision_feature_layer": 1},
        {"vision_feature_select_strategy": "full"},
        {"projector_hidden_act": "gelu_pytorch_tanh"},
    ],
)
def test_embeddings_are_those_of_transformers(
    tmp_path: Path, changes: dict[str, Any], attention: Attention
) -> None:
    folder = make_llava(tmp_path, seed=1)
    change_config(folder, **changes)
    tower = load_tower(FAMILY, open_folder(folder))
    pixels = pictures(3)
    ours = torch.stack([out.embeds for out in tower([{"pixels": p} for p in pixels])])
    attention.assert_ran(*TOWER)
    reference = reference_embeds(folder, pixels, dtype=torch.float32)
    assert ours.shape == reference.shape
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-6)


def test_bfloat16_is_as_far_from_float32_as_transformers_is(
    tmp_path: Path, attention: Attention
) -> None:
    folder = make_llava(tmp_path, seed=2)
    pixels = pictures(2)
    tower = load_tower(FAMILY, open_folder(folder), torch.bfloat16)
    ours = torch.stack([out.embeds for out in tower([{"pixels": p} for p in pixels])])
    attention.assert_ran(*TOWER)
    exact = reference_embeds(folder, pixels, dtype=torch.float32)
    theirs = reference_embeds(folder, pixels, dtype=torch.bfloat16)
    assert ours.dtype == torch.bfloat16
    error, allowed = (ours - exact).abs().mean(), (theirs - exact).abs().mean()
    assert error <= 1.25 * allowed


def test_an_item_does_not_depend_on_its_batch_mates(tmp_path: Path, attention: Attention) -> None:
    tower = load_tower(FAMILY, open_folder(make_llava(tmp_path)))
    items = [{"pixels": p} for p in pictures(4)]
    together = tower(items)
    attention.assert_ran(*TOWER)
    for item, out in zip(items, together, strict=True):
        torch.testing.assert_close(tower([item])[0].embeds, out.embeds, atol=1e-6, rtol=1e-6)
    assert tower([]) == []


@pytest.mark.gpu
def test_the_accelerator_gives_what_the_cpu_gives(tmp_path: Path) -> None:
    checkpoint = open_folder(make_llava(tmp_path))
    items = [{"pixels": p} for p in pictures(3)]
    expected = load_tower(FAMILY, checkpoint)(items)
    ours = load_tower(FAMILY, checkpoint, device="cuda")(items)
    for out, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(out.embeds.cpu(), reference.embeds, atol=1e-4, rtol=1e-4)


def test_layers_behind_the_one_that_is_read_are_not_built(tmp_path: Path) -> None:
    checkpoint = open_folder(make_llava(tmp_path))
    tower = load_tower(FAMILY, checkpoint)
    assert not any(name.startswith("layers.2.") for name in tower.state_dict())
    assert sum(name.endswith("fc1.weight") for name in tower.state_dict()) == 2


def test_the_published_config_is_clip_large() -> None:
    clip = read_clip_config(load_manifest("llava_1_5_7b").config)
    assert (clip.hidden_size, clip.num_layers, clip.num_stored_layers) == (1024, 23, 24)
    assert (clip.activation, clip.norm_eps) == ("quick_gelu", 1e-5)
    assert clip.num_tokens == 576


def test_what_a_config_omits_is_the_published_default() -> None:
    from transformers import LlavaConfig

    for config in ({}, {"vision_config": {"model_type": "clip_vision_model"}}):
        clip, reference = read_clip_config(config), LlavaConfig(**config).vision_config
        assert clip.hidden_size == reference.hidden_size
        assert clip.intermediate_size == reference.intermediate_size
        assert clip.num_heads == reference.num_attention_heads
        assert clip.num_stored_layers == reference.num_hidden_layers
        assert clip.image_size == reference.image_size
        assert clip.patch_size == reference.patch_size
        assert clip.activation == reference.hidden_act
        assert clip.norm_eps == reference.layer_norm_eps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_select_strategy": "cls"}, "strategy is 'cls'; only 'default' or 'full'"),
        ({"vision_feature_layer": [-2, -5]}, "only one layer's number is built"),
        ({"vision_feature_layer": -9}, "vision_feature_layer is -9; the tower has 2 layers"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "model_type is 'siglip_vision"),
        ({"vision_config": {"hidden_size": 30}}, "hidden_size 30 is no multiple"),
        ({"vision_config": "large"}, "vision_config is 'large'; it must be an object"),
        ({"vision_config": {"num_hidden_layers": 0}}, "num_hidden_layers is 0"),
    ],
)
def test_what_is_not_built_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    config = {"vision_config": {"hidden_size": 32, "num_hidden_layers": 2}} | changes
    if "hidden_size" not in str(changes) and isinstance(config["vision_config"], dict):
        config["vision_config"] = {"num_attention_heads": 4} | config["vision_config"]
    with pytest.raises(ConfigError, match=message):
        read_clip_config(config)
