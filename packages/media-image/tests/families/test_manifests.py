"""The committed manifests, and that every spelling of the weights loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from family_helpers import load_tower, open_folder
from safetensors.torch import load_file, save_file
from tiny_checkpoints import make_llava, make_qwen2vl, make_qwen25vl
from tiny_onevision import make_onevision

from sensorium.decoder_config import RopeConfig
from sensorium.errors import ConfigError
from sensorium.models.decoder import Decoder
from sensorium.models.load import load_model
from sensorium.plugins import EncoderContext, ModelFamily
from sensorium_media_image.families.llava import LlavaFamily
from sensorium_media_image.families.minicpmv import MiniCPMVFamily
from sensorium_media_image.families.onevision import OneVisionFamily
from sensorium_media_image.families.phi3v import Phi3VFamily
from sensorium_media_image.families.qwen_vl import QwenVLFamily
from sensorium_media_image.manifests import load_manifest

MANIFESTS = ("llava_1_5_7b", "llava_onevision_7b", "qwen2_vl_2b", "qwen2_5_vl_3b")
MAKERS: dict[str, Callable[..., Path]] = {
    "llava_1_5_7b": make_llava,
    "llava_onevision_7b": make_onevision,
    "qwen2_vl_2b": make_qwen2vl,
    "qwen2_5_vl_3b": make_qwen25vl,
}
#: Families that transformers has no class of.
NATIVE = ("phi_3_5_vision", "minicpm_v_2_6")
FAMILIES: dict[str, ModelFamily] = {
    "phi_3_5_vision": Phi3VFamily(),
    "minicpm_v_2_6": MiniCPMVFamily(),
    "llava_1_5_7b": LlavaFamily(),
    "llava_onevision_7b": OneVisionFamily(),
    "qwen2_vl_2b": QwenVLFamily(),
    "qwen2_5_vl_3b": QwenVLFamily(),
}


@pytest.mark.parametrize("name", [*MANIFESTS, *NATIVE])
def test_the_tensors_add_up_to_the_published_size(name: str) -> None:
    manifest = load_manifest(name)
    assert manifest.num_bytes() == manifest.total_bytes
    assert manifest.total_bytes in (
        14_126_854_144,
        16_061_615_168,
        4_417_971_200,
        7_509_245_952,
        2 * 4_146_621_440,
        16_198_350_304,
    )
    assert set(manifest.sources) >= {"names", "shapes", "config", "preprocessor_config"}


def written(values: Mapping[str, Any]) -> int:
    """Bytes of a JSON file as transformers writes it."""
    return len(json.dumps(values, indent=2, sort_keys=True).encode()) + 1


def test_onevision_s_files_are_as_long_as_published() -> None:
    """As the hub lists them: 178 bytes, 126 bytes, 1.73 kB and 78 kB."""
    manifest = load_manifest("llava_onevision_7b")
    assert written(manifest.processor_config) == 178
    origin = {"_from_model_config": True, "transformers_version": "4.45.0.dev0"}
    assert written({**manifest.generation_config, **origin}) == 126
    assert round(written(manifest.preprocessor_config) / 1e3, 2) == 1.73
    parts = dict.fromkeys(manifest.shapes(), "model-00001-of-00004.safetensors")
    index = {"metadata": {"total_size": manifest.total_bytes}, "weight_map": parts}
    assert round(written(index) / 1e3, 1) == 78.0


def test_the_number_of_tensors() -> None:
    assert len(load_manifest("qwen2_vl_2b").shapes()) == 729
    assert len(load_manifest("minicpm_v_2_6").shapes()) == 789


@pytest.mark.parametrize("name", [*MANIFESTS, *NATIVE])
def test_every_published_name_has_its_place_and_its_shape(name: str) -> None:
    """The published sizes, on the meta device: nothing is allocated."""
    manifest, family = load_manifest(name), FAMILIES[name]
    slots, fused = published_slots(family, manifest.config, manifest.preprocessor_config)
    (spec,) = family.encoders
    maps = {
        "decoder": family.decoder_weights(manifest.config),
        "tower": spec.weight_map(manifest.config),
    }
    filled = set()
    unused = set()
    for weight, shape in manifest.shapes().items():
        takers = [part for part, weights in maps.items() if weights.claims(weight)]
        assert len(takers) == 1, weight
        target = maps[takers[0]].target(weight)
        if target is None:
            unused.add(weight)
            continue
        parts = fused.get((takers[0], target), [target])
        shapes = [slots[takers[0], part] for part in parts]
        assert (sum(rows for rows, *_ in shapes), *shapes[0][1:]) == shape, weight
        filled |= {(takers[0], part) for part in parts}
    assert not set(slots) - filled
    assert all("layers.23." in weight or "post_layernorm" in weight for weight in unused)


def published_slots(
    family: ModelFamily, config: Mapping[str, Any], processor: Mapping[str, Any]
) -> tuple[dict[tuple[str, str], tuple[int, ...]], dict[tuple[str, str], list[str]]]:
    """The shape of every slot, and the slots that a file may hold as one matrix."""
    from sensorium.models.layers import fused_slots, weight_slots

    decoder_config, meta = family.decoder_config(config), torch.device("meta")
    context = EncoderContext(
        architecture=config["architectures"][0],
        config=config,
        processor=processor,
        decoder=decoder_config,
        dtype=torch.float32,
        device=meta,
    )
    (spec,) = family.encoders
    modules = {
        # Rope's tables need a device that holds values, and have no part in the weights.
        "decoder": Decoder(
            replace(decoder_config, rope=RopeConfig()), dtype=torch.float32, device=meta
        ),
        "tower": spec.build(context),
    }
    slots = {
        (part, target): tuple(slot.shape)
        for part, module in modules.items()
        for target, slot in weight_slots(module).items()
    }
    fused = fused_slots(modules["decoder"])
    return slots, {("decoder", name): list(parts) for name, (_, parts) in fused.items()}


@pytest.mark.parametrize("name", MANIFESTS)
def test_transformers_loads_what_the_manifest_spells(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    folder = MAKERS[name](tmp_path)
    _, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


# --- spellings --------------------------------------------------------------------------


def published(name: str) -> str:
    return name


def llava_in_memory(name: str) -> str:
    if name == "language_model.lm_head.weight":
        return "lm_head.weight"
    name = name.replace("language_model.model.", "language_model.")
    return "model." + name.replace("vision_model.", "")


def llava_hybrid(name: str) -> str:
    return name.replace("vision_model.", "")


def llava_later(name: str) -> str:
    """transformers 4.52 in memory, with the inner name of the tower that it still had."""
    return "model." + name.replace("language_model.model.", "language_model.")


def qwen_in_memory(name: str) -> str:
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.")


SPELLINGS: list[tuple[str, Callable[[str], str]]] = [
    ("llava_1_5_7b", published),
    ("llava_1_5_7b", llava_in_memory),
    ("llava_1_5_7b", llava_hybrid),
    ("llava_1_5_7b", llava_later),
    ("llava_onevision_7b", published),
    ("llava_onevision_7b", llava_in_memory),
    ("llava_onevision_7b", llava_hybrid),
    ("qwen2_vl_2b", published),
    ("qwen2_vl_2b", qwen_in_memory),
    ("qwen2_5_vl_3b", published),
    ("qwen2_5_vl_3b", qwen_in_memory),
]


def respell(folder: Path, spelling: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if spelling is llava_later:
        head = tensors.pop("language_model.lm_head.weight")
        tensors = {spelling(name): tensor for name, tensor in tensors.items()}
        tensors["lm_head.weight"] = head
    else:
        tensors = {spelling(name): tensor for name, tensor in tensors.items()}
    save_file(tensors, path)


def everything(family: ModelFamily, folder: Path) -> dict[str, torch.Tensor]:
    """The decoder's and the tower's parameters, loaded from ``folder``."""
    checkpoint = open_folder(folder)
    config = family.decoder_config(checkpoint.config)
    device = torch.device("cpu")
    decoder = Decoder(config, dtype=torch.float32, device=device)
    context = EncoderContext(
        architecture=checkpoint.architecture,
        config=checkpoint.config,
        processor=checkpoint.processor,
        decoder=config,
        dtype=torch.float32,
        device=device,
    )
    (spec,) = family.encoders
    loaded = load_model(checkpoint, family, decoder, {spec.name: spec}, {spec.name: context})
    modules = loaded.modules
    parameters = {f"decoder.{k}": v for k, v in decoder.state_dict().items()}
    return parameters | {f"tower.{k}": v for k, v in modules[spec.name].state_dict().items()}


@pytest.mark.parametrize(("name", "spelling"), SPELLINGS)
def test_every_spelling_loads_alike(
    name: str, spelling: Callable[[str], str], tmp_path: Path
) -> None:
    expected = everything(FAMILIES[name], MAKERS[name](tmp_path / "published"))
    folder = MAKERS[name](tmp_path / "respelt")
    respell(folder, spelling)
    loaded = everything(FAMILIES[name], folder)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("original_format", [True, False])
def test_what_transformers_saves_loads_alike(
    name: str, original_format: bool, tmp_path: Path
) -> None:
    """Its own spelling of config and weights, saved from a model that it loaded."""
    from transformers import AutoModelForImageTextToText

    folder = MAKERS[name](tmp_path / "published")
    expected = everything(FAMILIES[name], folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved", save_original_format=original_format)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "rope_parameters" in config["text_config"]
    loaded = everything(FAMILIES[name], tmp_path / "saved")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_what_transformers_saves_of_a_fresh_llava_loads(tmp_path: Path) -> None:
    """It writes a hybrid spelling for a model that it built and never loaded."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    folder = make_llava(tmp_path / "published")
    model = LlavaForConditionalGeneration(LlavaConfig.from_pretrained(folder))
    model.save_pretrained(tmp_path / "saved")
    loaded = everything(FAMILIES["llava_1_5_7b"], tmp_path / "saved")
    projector = model.model.multi_modal_projector.linear_1.weight
    assert torch.equal(loaded["tower.projector.linear_1.weight"], projector)


@pytest.mark.parametrize("name", MANIFESTS)
def test_derived_values_of_old_files_are_known(name: str, tmp_path: Path) -> None:
    folder = MAKERS[name](tmp_path)
    tensors = load_file(folder / "model.safetensors")
    extra = {
        "llava_1_5_7b": "vision_tower.vision_model.embeddings.position_ids",
        "llava_onevision_7b": "vision_tower.vision_model.embeddings.position_ids",
        "qwen2_vl_2b": "visual.rotary_pos_emb.inv_freq",
        "qwen2_5_vl_3b": "visual.rotary_pos_emb.inv_freq",
    }[name]
    save_file({**tensors, extra: torch.zeros(3)}, folder / "model.safetensors")
    assert everything(FAMILIES[name], folder)


def test_a_weight_that_nobody_claims_is_named(tmp_path: Path) -> None:
    folder = make_llava(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_tower.vision_model.extra.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"vision_tower\.vision_model\.extra\.weight"):
        everything(FAMILIES["llava_1_5_7b"], folder)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_parameter_that_nothing_fills_is_named(name: str, tmp_path: Path) -> None:
    folder = MAKERS[name](tmp_path)
    tensors = load_file(folder / "model.safetensors")
    lost = {
        "llava_1_5_7b": "vision_tower.vision_model.embeddings.class_embedding",
        "llava_onevision_7b": "image_newline",
        "qwen2_vl_2b": "visual.merger.ln_q.bias",
        "qwen2_5_vl_3b": "visual.merger.ln_q.weight",
    }[name]
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"class_embedding|line_end|merger\.ln_q\.(weight|bias)"):
        load_tower(FAMILIES[name], open_folder(folder))
