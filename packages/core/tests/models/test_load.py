"""Weights go where the tables say, and nothing passes unseen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sensorium.checkpoint import Checkpoint, open_checkpoint
from sensorium.config import EngineConfig
from sensorium.errors import ConfigError
from sensorium.models.decoder import Decoder
from sensorium.models.layers import weight_slots
from sensorium.models.load import load_encoder, load_model
from sensorium.models.plugin import LlamaFamily
from sensorium.plugins import EncoderContext, EncoderSpec, WeightMap, WeightRule
from sensorium.plugins.guard import guarded_spec

Make = Callable[..., tuple[Path, Any]]
CPU = torch.device("cpu")


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(EngineConfig.from_options(model=folder))


def load(
    folder: Path,
    specs: Mapping[str, EncoderSpec] | None = None,
    used: tuple[str, ...] = (),
    family: LlamaFamily | None = None,
    **options: Any,
) -> tuple[Decoder, dict[str, nn.Module]]:
    checkpoint, family = opened(folder), family or LlamaFamily()
    config = family.decoder_config(checkpoint.config)
    decoder = Decoder(config, dtype=torch.float32, device=CPU)
    contexts = {name: context(checkpoint) for name in used}
    loaded = load_model(checkpoint, family, decoder, specs or {}, contexts, **options)
    assert not loaded.lost, loaded.lost
    return decoder, loaded.modules


def lost(folder: Path, specs: Mapping[str, EncoderSpec]) -> dict[str, str]:
    """Loads a model whose encoders are all lost, and says why; the decoder is whole."""
    checkpoint, family = opened(folder), LlamaFamily()
    decoder = Decoder(family.decoder_config(checkpoint.config), dtype=torch.float32, device=CPU)
    guarded = {name: guarded_spec(spec, "a-stranger") for name, spec in specs.items()}
    contexts = {name: context(checkpoint) for name in specs}
    loaded = load_model(checkpoint, family, decoder, guarded, contexts)
    assert not loaded.modules
    assert not any(parameter.is_meta for parameter in decoder.parameters())
    return loaded.lost


def context(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> EncoderContext:
    decoder = LlamaFamily().decoder_config(checkpoint.config)
    return EncoderContext("LlamaForCausalLM", checkpoint.config, {}, decoder, dtype, CPU)


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes the tensors of a folder's one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


class Tower(nn.Module):
    """A stand-in encoder: a projection, a persistent buffer, and one that is computed."""

    scale: Tensor
    steps: Tensor

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.proj = nn.Linear(4, 32, device=device)
        self.register_buffer("scale", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("steps", torch.arange(3, dtype=torch.float64), persistent=False)


def spec(**changes: Any) -> EncoderSpec:
    rules = (
        WeightRule(r"tower\.(proj\.(?:weight|bias)|scale)", r"\1"),
        WeightRule(r"tower\.position_ids", None),
    )
    return replace(EncoderSpec("tower", lambda _: Tower(), WeightMap(rules)), **changes)


def tower_of(encoder: nn.Module) -> Tower:
    assert isinstance(encoder, Tower)
    return encoder


def tower_weights() -> dict[str, Tensor]:
    return {
        "tower.proj.weight": torch.randn(32, 4),
        "tower.proj.bias": torch.randn(32),
        "tower.scale": torch.tensor([1.5, 2.5]),
        "tower.position_ids": torch.arange(4),
    }


# --- the decoder ------------------------------------------------------------------------


def test_parts_of_fused_projections_fill_their_rows(make: Make) -> None:
    folder, theirs = make("llama", attention_bias=True)
    decoder, _ = load(folder)
    ours, state = weight_slots(decoder), theirs.state_dict()
    assert {f"model.{name}" for name in ours if name != "lm_head.weight"} == {
        name for name in state if name != "lm_head.weight"
    }
    for name, slot in ours.items():
        assert torch.equal(slot, state[name if name == "lm_head.weight" else f"model.{name}"])
    assert decoder.get_parameter("layers.0.self_attn.qkv_proj.weight").shape == (64, 32)
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_weights_are_converted_to_the_engines_dtype(make: Make) -> None:
    folder, theirs = make("llama")
    edit(folder, lambda t: t.update({k: v.to(torch.bfloat16) for k, v in t.items()}))
    decoder, _ = load(folder)
    expected = theirs.lm_head.weight.to(torch.bfloat16).float()
    assert torch.equal(weight_slots(decoder)["lm_head.weight"], expected)


def test_a_weight_nobody_claims_is_named(make: Make) -> None:
    folder, _ = make("llama")
    edit(folder, lambda t: t.update({f"strange.{i}": torch.zeros(1) for i in range(5)}))
    with pytest.raises(ConfigError, match=r"claims: strange\.0, strange\.1, strange\.2 and 2 more"):
        load(folder)


def test_a_parameter_nobody_fills_is_named(make: Make) -> None:
    folder, _ = make("llama")
    edit(folder, lambda t: t.pop("model.layers.1.self_attn.k_proj.weight"))
    with pytest.raises(ConfigError, match=r"nothing fills layers\.1\.self_attn\.k_proj\.weight"):
        load(folder)


def test_a_missing_output_matrix_is_told_unless_tied(make: Make) -> None:
    folder, _ = make("llama")
    edit(folder, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(ConfigError, match=r"nothing fills lm_head\.weight"):
        load(folder)


def test_a_tied_checkpoint_may_hold_its_embedding_once_more(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = make("llama", tie_word_embeddings=True)
    edit(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    decoder, _ = load(folder)
    assert decoder.lm_head is None
    assert caplog.records == []


def test_an_output_matrix_of_its_own_counts_although_the_config_ties_it(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = make("llama", tie_word_embeddings=True)
    head = torch.randn(96, 32)
    edit(folder, lambda t: t.update({"lm_head.weight": head}))
    decoder, _ = load(folder)
    assert decoder.lm_head is not None
    assert torch.equal(decoder.lm_head.weight, head)
    assert not decoder.lm_head.weight.requires_grad
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(decoder.logits(hidden), hidden @ head.T)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "ties its output matrix to its embedding (tie_word_embeddings)" in record.getMessage()
    embedder, _ = load(folder, needs_logits=False)
    assert embedder.lm_head is None, "nobody asks for logits"
    edit(folder, lambda t: t.update({"lm_head.weight": torch.randn(95, 32)}))
    with pytest.raises(ConfigError, match=r"lm_head\.weight of shape 95×32; .* is 96×32"):
        load(folder)


def test_names_may_lack_the_prefix(make: Make) -> None:
    folder, theirs = make("llama")
    edit(folder, lambda t: [t.update({k.removeprefix("model."): t.pop(k)}) for k in list(t)])
    decoder, _ = load(folder)
    assert torch.equal(weight_slots(decoder)["norm.weight"], theirs.model.norm.weight)


LEFT_OVER = (
    "score.weight",
    "v_head.summary.bias",
    "model.rotary_emb.inv_freq",
    "layers.0.self_attn.rotary_emb.cos_cached",
)


def test_what_nobody_uses_is_passed_over_with_a_warning(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder, theirs = make("llama")
    edit(folder, lambda t: t.update({name: torch.zeros(3) for name in LEFT_OVER}))
    decoder, _ = load(folder)
    assert torch.equal(weight_slots(decoder)["norm.weight"], theirs.model.norm.weight)
    [record] = caplog.records
    assert "has weights that nobody uses: " in record.getMessage()
    assert all(name in record.getMessage() for name in sorted(LEFT_OVER)[:3])


@pytest.mark.parametrize("name", ["scores.weight", "v_head", "model.lm_head.bias", "rotary_emb"])
def test_what_only_resembles_it_is_refused(make: Make, name: str) -> None:
    folder, _ = make("llama")
    edit(folder, lambda t: t.update({name: torch.zeros(3), "score.weight": torch.zeros(3)}))
    with pytest.raises(ConfigError, match=rf"claims: {name}\.$"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("model.norm.weight", torch.zeros(31), r"of shape 31; norm\.weight of the decoder is 32"),
        ("model.embed_tokens.weight", torch.zeros(96, 33), "of shape 96×33; .* is 96×32"),
        ("model.norm.weight", torch.zeros(32, dtype=torch.int8), "of dtype I8; quantized weights"),
        (
            "model.norm.weight",
            torch.zeros(32).to(torch.float8_e4m3fn),
            "of dtype F8_E4M3; quantized weights",
        ),
        (
            "model.layers.3.mlp.up_proj.weight",
            torch.zeros(48, 32),
            r"is layers\.3\.mlp\.up_proj\.weight of the decoder; with this config",
        ),
        ("model.layers.0.self_attn.q_proj.bias", torch.zeros(32), "it has no such parameter"),
    ],
)
def test_a_weight_that_doesnt_fit_is_named(
    make: Make, name: str, tensor: Tensor, sentence: str
) -> None:
    folder, _ = make("llama")
    edit(folder, lambda t: t.update({name: tensor}))
    with pytest.raises(ConfigError, match=sentence):
        load(folder)


def test_a_parameter_filled_twice_is_named(make: Make) -> None:
    folder, _ = make("llama")
    names = sorted(load_file(folder / "model.safetensors"))
    save_file({names[0]: torch.zeros(96, 32)}, folder / "other.safetensors")
    index = dict.fromkeys(names, "model.safetensors") | {"again": "other.safetensors"}
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    index = {key: value.replace("model.", "first.") for key, value in index.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ConfigError, match="twice, again as"):
        load(folder)


def test_the_decoder_may_lie_elsewhere(make: Make, tmp_path: Path) -> None:
    elsewhere, theirs = make("llama")
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "config.json").write_text((elsewhere / "config.json").read_text())
    save_file(tower_weights(), folder / "model.safetensors")

    class Split(LlamaFamily):
        def decoder_source(self, config: Mapping[str, Any]) -> str:
            return str(elsewhere)

    decoder, encoders = load(folder, {"tower": spec()}, ("tower",), Split())
    assert torch.equal(weight_slots(decoder)["norm.weight"], theirs.model.norm.weight)
    assert torch.equal(
        tower_of(encoders["tower"]).scale, torch.tensor([1.5, 2.5], dtype=torch.float64)
    )


# --- encoders ---------------------------------------------------------------------------


def test_an_encoder_takes_its_part_of_the_checkpoint(make: Make) -> None:
    folder, _ = make("llama")
    weights = tower_weights()
    edit(folder, lambda t: t.update(weights))
    _, encoders = load(folder, {"tower": spec()}, ("tower",))
    alone = load_encoder(spec(), context(opened(folder), torch.bfloat16), opened(folder))
    for encoder, dtype in ((encoders["tower"], torch.float32), (alone, torch.bfloat16)):
        tower = tower_of(encoder)
        assert not tower.training
        assert torch.equal(tower.proj.weight, weights["tower.proj.weight"].to(dtype))
        # Buffers keep their own dtype: a table in bfloat16 would be useless.
        assert tower.scale.dtype == tower.steps.dtype == torch.float64
        assert torch.equal(tower.scale, weights["tower.scale"].double())
        assert torch.equal(tower.steps, torch.arange(3, dtype=torch.float64))


def test_an_encoder_may_be_built_on_the_meta_device(make: Make) -> None:
    folder, _ = make("llama")
    weights = tower_weights()
    edit(folder, lambda t: t.update(weights))
    _, encoders = load(folder, {"tower": spec(build=lambda _: Tower("meta"))}, ("tower",))
    assert torch.equal(tower_of(encoders["tower"]).proj.bias, weights["tower.proj.bias"])


def test_a_buffer_without_values_is_the_plugins_mistake(make: Make) -> None:
    folder, _ = make("llama")

    def build(_: EncoderContext) -> nn.Module:
        with torch.device("meta"):
            return Tower()

    assert (
        "builds its buffer steps on the meta device"
        in lost(folder, {"tower": spec(build=build)})["tower"]
    )


def test_an_encoder_that_nobody_uses_claims_its_names_and_isnt_built(make: Make) -> None:
    folder, _ = make("llama")
    edit(folder, lambda t: t.update(tower_weights()))

    def build(_: EncoderContext) -> nn.Module:
        raise AssertionError("not used")

    assert load(folder, {"tower": spec(build=build)})[1] == {}


def test_an_encoder_may_bring_its_own_file(make: Make, tmp_path: Path) -> None:
    folder, _ = make("llama")
    save_file(tower_weights(), tmp_path / "tower.safetensors")
    own = spec(source=lambda _: str(tmp_path / "tower.safetensors"))
    _, encoders = load(folder, {"tower": own}, ("tower",))
    assert tower_of(encoders["tower"]).scale.tolist() == [1.5, 2.5]
    alone = load_encoder(own, context(opened(folder)), opened(folder))
    assert tower_of(alone).scale.tolist() == [1.5, 2.5]


def test_an_own_file_is_held_to_the_same_rules(make: Make, tmp_path: Path) -> None:
    folder, _ = make("llama")
    file = tmp_path / "tower.safetensors"
    own = {"tower": spec(source=lambda _: str(file))}
    save_file({**tower_weights(), "more": torch.zeros(1)}, file)
    assert re.search(r"tower\.safetensors has weights .*: more", lost(folder, own)["tower"])
    weights = tower_weights()
    del weights["tower.scale"]
    save_file(weights, file)
    assert "encoder tower: nothing fills scale" in lost(folder, own)["tower"]
    save_file({**tower_weights(), "tower.proj.weight": torch.zeros(64, 4)}, file)
    assert "64×4" in lost(folder, own)["tower"]
    file.unlink()
    assert "There is no folder" in lost(folder, own)["tower"]


def test_a_source_that_fails_loses_its_encoder_alone(make: Make) -> None:
    folder, _ = make("llama")

    def source(_: EncoderContext) -> str:
        return {1: "somewhere"}[32]

    own: dict[str, EncoderSpec] = {"tower": spec(source=source)}
    assert lost(folder, own)["tower"] == (
        "The encoder tower's source of a-stranger raised KeyError: 32."
    )
    nothing: Any = spec(source=lambda _: None)
    assert "returned None where a str belongs" in lost(folder, {"tower": nothing})["tower"]


def test_weights_that_are_missing_altogether_lose_an_encoder_and_a_part_refuses(
    make: Make,
) -> None:
    folder, _ = make("llama")
    assert (
        "holds no weights of the encoder tower, which would fill proj.bias"
        in (lost(folder, {"tower": spec()})["tower"])
    )
    edit(folder, lambda t: t.update({"tower.scale": torch.zeros(2)}))
    with pytest.raises(ConfigError, match=r"encoder tower: nothing fills proj\.bias, proj\.weight"):
        load(folder, {"tower": spec()}, ("tower",))
    with pytest.raises(ConfigError, match="lacks weights of the encoder tower"):
        load_encoder(spec(), context(opened(folder)), opened(folder))


def test_the_config_may_decide_which_weights_are_claimed(make: Make) -> None:
    folder, _ = make("llama")
    weights = tower_weights()
    layers = {f"{i}.{name}": w * i for name, w in weights.items() for i in range(2)}
    edit(folder, lambda t: t.update(layers))

    def claims(config: Mapping[str, Any]) -> WeightMap:
        used = config["num_hidden_layers"] - 2
        rules = (
            WeightRule(rf"{used}\.tower\.(proj\.(?:weight|bias)|scale)", r"\1"),
            WeightRule(r"\d\.tower\..*", None),
        )
        return WeightMap(rules)

    _, encoders = load(folder, {"tower": spec(weights=claims)}, ("tower",))
    assert torch.equal(tower_of(encoders["tower"]).proj.bias, weights["tower.proj.bias"])


def test_an_encoder_that_cant_be_built_is_named(make: Make) -> None:
    folder, _ = make("llama")

    def build(_: EncoderContext) -> nn.Module:
        raise KeyError("depth")

    assert lost(folder, {"tower": spec(build=build)})["tower"] == (
        "The encoder tower's build of a-stranger raised KeyError: 'depth'."
    )


# --- dummy weights ----------------------------------------------------------------------


def test_dummy_weights_need_no_files_and_follow_the_seed(make: Make) -> None:
    folder, _ = make("llama")
    (folder / "model.safetensors").unlink()
    drawn = [
        {**weight_slots(decoder), **weight_slots(encoders["tower"])}
        for decoder, encoders in (
            load(folder, {"tower": spec()}, ("tower",), dummy_seed=seed) for seed in (0, 0, 1)
        )
    ]
    name = "layers.1.mlp.gate_proj.weight"
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
    assert not torch.equal(drawn[0][name], drawn[2][name])
    assert not torch.equal(drawn[0][name], drawn[0]["layers.1.mlp.up_proj.weight"])
    assert 0.015 < float(drawn[0][name].std()) < 0.025
    assert all(bool(tensor.isfinite().all()) for tensor in drawn[0].values())
