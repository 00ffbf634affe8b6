"""``sensorium.assets.KIND`` is whatever module the kind's plugin names."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import sensorium.assets
from sensorium.plugins import hookimpl
from sensorium.plugins.catalogue import Catalogue, Entry
from sensorium.plugins.discovery import in_process
from sensorium.plugins.registry import Registry

CATALOGUE = Catalogue(kinds={"taste": Entry("tastes", "pip install tastes")})


def _plugin(kinds: dict[str, ModuleType]) -> ModuleType:
    def assets() -> dict[str, ModuleType]:
        return kinds

    module: Any = ModuleType("plugin")
    module.api = 2
    module.sensorium_assets = hookimpl(assets)
    return module  # type: ignore[no-any-return]


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module with sample scents, brought by the only plugin that brings any."""
    module: Any = ModuleType("scent_samples")
    module.ScentAsset = object()
    plugins = [
        in_process("scents", _plugin({"scent": module, "stench": module})),
        in_process("stenches", _plugin({"stench": module})),
        in_process("broken", ModuleType("broken")),
    ]
    monkeypatch.setattr(sensorium.assets, "discover", lambda: Registry(plugins, {}, CATALOGUE))
    yield module
    for kind in ("scent", "stench"):
        sys.modules.pop(f"sensorium.assets.{kind}", None)
        vars(sensorium.assets).pop(kind, None)


def test_a_kinds_assets_are_its_plugins_module(samples: ModuleType) -> None:
    from sensorium.assets.scent import ScentAsset  # type: ignore[import-not-found]

    assert ScentAsset is samples.ScentAsset
    assert importlib.import_module("sensorium.assets.scent") is samples
    assert sys.modules["sensorium.assets.scent"] is samples
    assert samples.__name__ == "scent_samples"
    assert samples.__spec__ is None  # untouched
    from sensorium.assets import scent

    assert scent is samples


def test_a_missing_kind_is_told(samples: ModuleType) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("sensorium.assets.taste")
    assert str(caught.value).startswith(
        "No installed plugin brings assets of the kind 'taste' (known: scent, stench). "
        "tastes does: pip install tastes. "
        "A plugin that might failed: broken:in-process: it states no api"
    )
    with pytest.raises(ModuleNotFoundError, match="brings assets of the kind 'taste'"):
        from sensorium.assets import taste  # type: ignore[attr-defined] # noqa: F401


def test_a_kind_that_two_claim_is_told(samples: ModuleType) -> None:
    with pytest.raises(ModuleNotFoundError, match="assets:stench is claimed by scents and sten"):
        importlib.import_module("sensorium.assets.stench")


def test_names_elsewhere_are_left_alone() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'sensorium\.scent'"):
        importlib.import_module("sensorium.scent")
