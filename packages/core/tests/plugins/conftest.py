"""Plugins made on the fly: in-process ones, and distributions on ``sys.path``."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sensorium.decoder_config import DecoderConfig, RopeConfig
from sensorium.plugins import (
    API,
    EncoderSpec,
    MediaAdapter,
    MediaKind,
    ModelFamily,
    Placeholder,
    WeightMap,
    hookimpl,
)
from sensorium.plugins.catalogue import Catalogue
from sensorium.plugins.discovery import in_process
from sensorium.plugins.registry import Registry
from sensorium.types import Loaded, MediaItem, MediaPlan, MediaShape, Probe

HOOKS = {
    "kinds": "sensorium_media_kinds",
    "families": "sensorium_model_families",
    "adapters": "sensorium_media_adapters",
    "commands": "sensorium_commands",
    "assets": "sensorium_assets",
    "models": "sensorium_models",
}


class _Kind(MediaKind):
    def split(self, value: Any) -> list[MediaItem]:
        return []

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        return MediaItem(self.name, 0)

    def probe(self, sources: Any) -> Probe:
        return Probe(MediaShape((1,)), 1)

    def load(self, sources: Any) -> Loaded:
        return Loaded(None, MediaShape((1,)))

    def digest(self, sources: Any) -> bytes:
        return bytes(32)


class _Adapter(MediaAdapter):
    def placeholder(self, index: int) -> Placeholder:
        return Placeholder("<x>", (), "<x>")

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        return MediaPlan(1, (0,))

    def process(self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]) -> Any:
        return {}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        return MediaShape((1,))


class _Family(ModelFamily):
    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        return DecoderConfig(8, 8, 1, 1, 1, 8, 8, 1e-6, RopeConfig(), 8)

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        return WeightMap(())


class Maker:
    """Makes the objects that hooks return, and plugins and registries of them."""

    Kind = _Kind
    Adapter = _Adapter
    Family = _Family

    def kind(self, name: str = "scent", **attributes: Any) -> type[MediaKind]:
        return type("Kind", (_Kind,), {"name": name, **attributes})

    def encoder(self, name: str = "nose") -> EncoderSpec:
        return EncoderSpec(name, build=lambda context: None, weights=WeightMap(()))  # type: ignore[arg-type,return-value]

    def adapter(
        self,
        kind: str = "scent",
        architectures: tuple[str, ...] = ("ToyForCausalLM",),
        own: tuple[str, ...] = ("nose",),
        **attributes: Any,
    ) -> type[MediaAdapter]:
        given = {
            "kind": kind,
            "architectures": architectures,
            "encoders": own,
            "own_encoders": tuple(self.encoder(name) for name in own),
            **attributes,
        }
        return type("Adapter", (_Adapter,), given)

    def family(self, *architectures: str, **attributes: Any) -> ModelFamily:
        given = {"architectures": architectures or ("ToyForCausalLM",), **attributes}
        return type("Family", (_Family,), given)()

    def plugin(self, *, api: object = API, **brings: Any) -> ModuleType:
        """A plugin whose hooks return what is given, or raise it."""
        module = ModuleType("made_plugin")
        if api is not None:
            module.api = api  # type: ignore[attr-defined]
        for what, value in brings.items():
            setattr(module, HOOKS[what], hookimpl(_returning(value)))
        return module

    def registry(
        self,
        plugins: Mapping[str, object],
        choices: Mapping[str, str] | None = None,
        catalogue: Catalogue | None = None,
    ) -> Registry:
        """A registry of these plugins alone, whatever is installed."""
        found = [in_process(name, plugin) for name, plugin in plugins.items()]
        return Registry(found, choices or {}, catalogue or Catalogue())


def _returning(value: Any) -> Callable[[], Any]:
    def hook() -> Any:
        if isinstance(value, BaseException):
            raise value
        return value

    return hook


@pytest.fixture
def make() -> Maker:
    return Maker()


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lays a distribution out on ``sys.path`` as pip would, without pip."""
    before = set(sys.modules)

    def lay_out(
        distribution: str,
        source: str,
        *,
        version: str = "1.0",
        module: str | None = None,
        entries: Mapping[str, str] | None = None,
        folder: str = "site",
    ) -> Path:
        site = tmp_path / folder
        name = distribution.replace("-", "_")
        module = module or f"{name}_plugin"
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        lines = [f"{key} = {value}" for key, value in (entries or {"main": module}).items()]
        (info / "entry_points.txt").write_text("[sensorium.plugins]\n" + "\n".join(lines) + "\n")
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(site)
        return site

    yield lay_out
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]
