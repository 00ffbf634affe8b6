"""What plugins bring for a checkpoint: who serves it, its worst items, other checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from tiny_checkpoints import make_qwen2

from sensorium.config import EngineConfig
from sensorium.engine.model import Model, item_limits, open_model, worst_items
from sensorium.errors import ConfigError
from sensorium.models.plugin import Qwen2Family
from sensorium.plugins import (
    API,
    EncoderSpec,
    MediaAdapter,
    MediaKind,
    ModelContext,
    Placeholder,
    WeightMap,
    hookimpl,
)
from sensorium.plugins.discovery import discover
from sensorium.plugins.guard import inner_of
from sensorium.types import Loaded, MediaItem, MediaPlan, MediaShape, Probe


class Tide(MediaKind):
    """Water levels; its worst case follows from how it is read."""

    name = "tide"
    size_names = ("length",)
    fact_names = ("rate", "harbour")

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.longest = options.get("longest", 100)

    def options_key(self) -> Mapping[str, Any]:
        return {"longest": self.longest}

    def split(self, value: Any) -> list[MediaItem]:
        raise NotImplementedError

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        raise NotImplementedError

    def probe(self, sources: Any) -> Probe:
        raise NotImplementedError

    def load(self, sources: Any) -> Loaded:
        raise NotImplementedError

    def digest(self, sources: Any) -> bytes:
        raise NotImplementedError

    def blank(self, shape: MediaShape) -> Loaded:
        return Loaded(torch.zeros(shape.size), shape)


class TideAdapter(MediaAdapter):
    kind = "tide"
    architectures = ("Qwen2ForCausalLM", "HarbourForCausalLM")
    encoders = ("gauge",)
    own_encoders = (EncoderSpec("gauge", lambda context: torch.nn.Identity(), WeightMap(())),)
    wants_hidden: ClassVar[int | None] = None

    @classmethod
    def serves(cls, context: ModelContext) -> bool:
        return cls.wants_hidden in (None, context.decoder.hidden_size)

    def placeholder(self, index: int) -> Placeholder:
        return Placeholder("<tide>", (), "<tide>")

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        rate = shape.facts["rate"]
        assert isinstance(rate, (int, float))
        num_tokens = int(shape.size[0] * rate)
        return MediaPlan(num_tokens, (0,) * num_tokens, facts=shape.facts)

    def process(self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]) -> Any:
        return {"gauge": {"levels": loaded.value}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        return MediaShape((io_options["longest"],), {"rate": 2, "harbour": "any"})


class HarbourFamily(Qwen2Family):
    """A decoder of which the checkpoint says only where it comes from."""

    architectures = ("HarbourForCausalLM",)

    def other_configs(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        return {"text": config["text_model_id"]}

    def complete_config(
        self, config: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        return {**others["text"], **config}


def opened(
    folder: Path, adapter: type[MediaAdapter] = TideAdapter, **options: Any
) -> tuple[EngineConfig, Model]:
    plugin: Any = ModuleType("tides")
    plugin.api = API
    plugin.sensorium_media_kinds = hookimpl(_named("sensorium_media_kinds", [Tide]))
    plugin.sensorium_media_adapters = hookimpl(_named("sensorium_media_adapters", [adapter]))
    plugin.sensorium_model_families = hookimpl(
        _named("sensorium_model_families", [HarbourFamily()])
    )
    config = EngineConfig.from_options(model=str(folder), **options)
    return config, open_model(config, discover(extra={"tides": plugin}))


def _named(name: str, value: Any) -> Any:
    def hook() -> Any:
        return value

    hook.__name__ = name
    return hook


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2(tmp_path_factory.mktemp("model"), seed=3)


def test_the_worst_item_follows_from_how_media_are_read(folder: Path) -> None:
    (item,) = worst_items(*opened(folder))
    assert item.num_tokens == 200
    (item,) = worst_items(*opened(folder, media_io_kwargs={"tide": {"longest": 30}}))
    assert item.num_tokens == 60


def test_sizes_and_facts_of_the_limit_reach_the_worst_items_shape(folder: Path) -> None:
    limits = {"tide": {"count": 2, "length": 7, "rate": 0.5}}
    config, model = opened(folder, limit_mm_per_prompt=limits)
    assert item_limits(config, model) == {"tide": 2}
    (item,) = worst_items(config, model)
    assert item.num_tokens == 3
    assert item.features["gauge"]["levels"].shape == (7,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": 3}, "has 'depth'; allowed are count, length, rate, harbour"),
        ({"length": 1.5}, r"\['length'\] is 1.5; it must be an integer of at least 1"),
        ({"rate": 0}, r"\['rate'\] is 0; it must be a number above 0"),
        ({"rate": "2"}, r"\['rate'\] is '2'; it must be a number above 0"),
    ],
)
def test_a_limit_that_is_none_is_refused(folder: Path, given: Any, message: str) -> None:
    config, model = opened(folder, limit_mm_per_prompt={"tide": given})
    with pytest.raises(ConfigError, match=message):
        item_limits(config, model)


def test_an_adapter_may_decline_a_model(folder: Path) -> None:
    other_width = type("Other", (TideAdapter,), {"wants_hidden": 7})
    assert not opened(folder, other_width)[1].adapters
    same_width = type("Same", (TideAdapter,), {"wants_hidden": 64})
    assert list(opened(folder, same_width)[1].adapters) == ["tide"]


def test_a_family_gets_the_configs_of_other_checkpoints(folder: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    for file in folder.iterdir():
        if file.name != "config.json" and file.suffix == ".json":
            (outer / file.name).write_bytes(file.read_bytes())
    own = {"architectures": ["HarbourForCausalLM"], "text_model_id": str(folder)}
    (outer / "config.json").write_text(json.dumps(own))
    inner = json.loads((folder / "config.json").read_text())

    _, model = opened(outer)
    assert model.context.decoder.hidden_size == inner["hidden_size"]
    assert model.checkpoint.config["architectures"] == ["HarbourForCausalLM"]
    assert model.context.other_configs == {"text": inner}
    adapter = inner_of(model.adapters["tide"])
    assert adapter.context.other_configs == {"text": inner}

    _, model = opened(outer, hf_overrides={"rms_norm_eps": 0.25})
    assert model.context.decoder.norm_eps == 0.25
    with pytest.raises(ConfigError, match="There is no folder /nowhere"):
        opened(outer, hf_overrides={"text_model_id": "/nowhere"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no config\.json"):
        opened(outer, hf_overrides={"text_model_id": str(tmp_path / "empty")})
