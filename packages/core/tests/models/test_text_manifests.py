"""The committed manifests of text decoders, and that every spelling of them loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from decoder_helpers import family_of, loaded
from safetensors.torch import load_file, save_file
from text_checkpoints import CASES, make_text

from sensorium.errors import ConfigError
from sensorium.models.decoder import Decoder
from sensorium.models.layers import fused_slots, weight_slots
from sensorium.models.manifests import load_manifest
from sensorium.models.plugin import sensorium_model_families

#: Parameters as published: the hub's count, or the index's total_size by the dtype's bytes.
PARAMETERS = {
    "llama_3_2_1b": 1_235_814_400,
    "mistral_7b_v0_3": 7_248_023_552,
    "qwen3_0_6b": 751_632_384,
    "phi_3_5_mini": 3_821_079_552,
    "gemma_2_2b_it": 2_614_341_888,
    "gemma_3_1b_it": 999_885_952,
    "olmo_2_0425_1b": 1_484_916_736,
}
#: As their published indexes count; of the others no index is published.
TENSORS = {"mistral_7b_v0_3": 291, "phi_3_5_mini": 195}
#: One tiny checkpoint a manifest.
TINY = {
    "llama_3_2_1b": "llama 3",
    "mistral_7b_v0_3": "mistral",
    "qwen3_0_6b": "qwen3",
    "phi_3_5_mini": "phi 3 long",
    "gemma_2_2b_it": "gemma 2",
    "gemma_3_1b_it": "gemma 3",
    "olmo_2_0425_1b": "olmo 2",
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_tensors_add_up_to_the_published_size(name: str) -> None:
    manifest = load_manifest(name)
    width = 4 if manifest.dtype == "float32" else 2
    assert manifest.num_bytes() == manifest.total_bytes == width * PARAMETERS[name]
    assert set(manifest.sources) == {"names", "shapes", "config", "total_bytes"}
    assert name not in TENSORS or len(manifest.shapes()) == TENSORS[name]


def test_every_family_has_a_manifest_or_the_image_package_one() -> None:
    """Qwen2's decoder is in the manifests of Qwen2-VL and Qwen2.5-VL; bare models have the names of
    whole ones."""
    families = [f for f in sensorium_model_families() if f.task == "generate"]
    served = {name for family in families for name in family.architectures}
    described = {load_manifest(name).config["architectures"][0] for name in PARAMETERS}
    assert served - described == {"Qwen2ForCausalLM"}
    assert {case.manifest for case in CASES.values()} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_published_name_has_its_place_and_its_shape(name: str) -> None:
    """The published sizes, on the meta device: nothing is allocated."""
    manifest = load_manifest(name)
    family = family_of(manifest.config["architectures"][0])
    config = family.decoder_config(manifest.config)
    decoder = Decoder(config, dtype=torch.float32, device=torch.device("meta"))
    slots, fused = weight_slots(decoder), fused_slots(decoder)
    weights = family.decoder_weights(manifest.config)
    filled = set()
    for weight, shape in manifest.shapes().items():
        target = weights.target(weight)
        assert target is not None, weight
        if target == "lm_head.weight" and config.tied:
            continue
        slot, parts = fused.get(target, (slots.get(target), (target,)))
        assert slot is not None, weight
        assert tuple(slot.shape) == shape, weight
        assert not filled.intersection(parts), weight
        filled.update(parts)
    assert filled == set(slots)


@pytest.mark.parametrize("name", TINY)
def test_transformers_loads_what_the_manifest_spells(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_text(tmp_path, TINY[name])
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == load_manifest(name).config["architectures"][0]
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


@pytest.mark.parametrize("name", TINY)
def test_what_transformers_saves_loads_alike(name: str, tmp_path: Path) -> None:
    """Its own spelling of the config, and its names of the weights."""
    from transformers import AutoModelForCausalLM

    folder = make_text(tmp_path / "published", TINY[name])
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "rope_parameters" in written
    assert "rope_theta" not in written
    expected, result = loaded(folder), loaded(tmp_path / "saved")
    assert result.config == expected.config
    state = result.state_dict()
    for key, tensor in expected.state_dict().items():
        assert torch.equal(state[key], tensor), key


def test_projections_may_be_fused_or_apart(tmp_path: Path) -> None:
    """Phi-3's weights split into Llama's names fill the same parameters."""
    folder = make_text(tmp_path, "phi 3")
    expected = loaded(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "qkv_proj" in name or "gate_up_proj" in name]:
        whole = tensors.pop(name)
        attention = "qkv" in name
        parts = ("q", "k", "v") if attention else ("gate", "up")
        sizes = [64, 32, 32] if attention else [96, 96]
        for part, rows in zip(parts, whole.split(sizes), strict=True):
            key = name.replace("qkv" if attention else "gate_up", part)
            tensors[key] = rows.contiguous()
    save_file(tensors, folder / "model.safetensors")
    result = loaded(folder).state_dict()
    assert all(torch.equal(result[key], expected[key]) for key in expected)


def test_a_part_given_twice_is_named(tmp_path: Path) -> None:
    folder = make_text(tmp_path, "phi 3")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.zz_proj.weight"] = torch.zeros(32, 64)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"layers\.0\.self_attn\.zz_proj"):
        loaded(folder)
    tensors["model.layers.0.self_attn.k_proj.weight"] = tensors.pop(
        "model.layers.0.self_attn.zz_proj.weight"
    )
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"_proj\.weight of the decoder twice"):
        loaded(folder)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("qwen3", "model.layers.1.self_attn.q_norm.weight"),
        ("phi 3", "model.layers.1.self_attn.qkv_proj.weight"),
        ("gemma 2", "model.layers.1.pre_feedforward_layernorm.weight"),
        ("gemma 3", "model.layers.1.post_feedforward_layernorm.weight"),
        ("olmo 2", "model.layers.1.post_attention_layernorm.weight"),
    ],
)
def test_a_parameter_that_nothing_fills_is_named(name: str, lost: str, tmp_path: Path) -> None:
    folder = make_text(tmp_path, name)
    tensors = load_file(folder / "model.safetensors")
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"nothing fills layers\.1\."):
        loaded(folder)


def test_other_families_norms_are_not_claimed() -> None:
    """What a Gemma holds besides Llama's is refused in a Llama, and the other way round."""
    before = "model.layers.0.input_layernorm.weight"
    behind = "model.layers.0.post_feedforward_layernorm.weight"
    claims = {
        name: [w for w in (before, behind) if family_of(name).decoder_weights({}).claims(w)]
        for name in ("LlamaForCausalLM", "Gemma2ForCausalLM", "Olmo2ForCausalLM")
    }
    assert claims == {
        "LlamaForCausalLM": [before],
        "Gemma2ForCausalLM": [before, behind],
        "Olmo2ForCausalLM": [behind],
    }
