"""Finding plugins by their entry points, with distributions laid out on ``sys.path``."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sensorium.errors import ConfigError, PluginError
from sensorium.plugins.discovery import discover
from sensorium.plugins.installed import PluginStatus

KIND = """
from sensorium.plugins import MediaKind, hookimpl
from sensorium.types import Loaded, MediaItem, MediaShape, Probe
api = 2

class Kind(MediaKind):
    name = "NAME"
    def split(self, value): return []
    def parse_part(self, part_type, value): return MediaItem("NAME", 0)
    def probe(self, sources): return Probe(MediaShape((1,)), 1)
    def load(self, sources): return Loaded(None, MediaShape((1,)))
    def digest(self, sources): return bytes(32)

@hookimpl
def sensorium_media_kinds():
    return [Kind]
"""


def _statuses(distribution: str, **options: Any) -> list[PluginStatus]:
    return [s for s in discover(**options).statuses if s.distribution == distribution]


def test_a_plugin_is_registered_as_distribution_and_name(install: Any) -> None:
    install(
        "scent-shop",
        KIND.replace("NAME", "scent"),
        version="2.3",
        entries={"nose": "shop"},
        module="shop",
    )
    (status,) = _statuses("scent-shop")
    assert status == PluginStatus("scent-shop:nose", "scent-shop", "2.3", "shop", ("kind:scent",))


def test_two_entry_points_of_one_distribution_are_two_plugins(install: Any) -> None:
    site = install("pair", KIND.replace("NAME", "scent"), entries={"a": "pair_plugin", "b": "gone"})
    assert isinstance(site, Path)
    good, bad = _statuses("pair")
    assert (good.name, good.brings) == ("pair:a", ("kind:scent",))
    assert bad.error == "importing gone raised ModuleNotFoundError: No module named 'gone'"


def test_one_module_under_two_names_is_a_conflict_that_can_be_chosen(install: Any) -> None:
    install(
        "twins", KIND.replace("NAME", "scent"), entries={"a": "twins_plugin", "b": "twins_plugin"}
    )
    with pytest.raises(PluginError, match="kind:scent is claimed by twins:a and twins:b; choose"):
        discover().kind("scent")
    with pytest.raises(PluginError, match="twins:a and twins:b"):
        discover({"kind:scent": "twins"}).kind("scent")
    assert discover({"kind:scent": "twins:b"}).kind("scent").name == "scent"


def test_a_distribution_that_lies_twice_counts_once_the_first(install: Any) -> None:
    install("double", KIND.replace("NAME", "late"), version="1.0", folder="behind")
    install("Double", KIND.replace("NAME", "early"), version="2.0", folder="before")
    statuses = _statuses("Double") + _statuses("double")
    assert [(s.version, s.brings) for s in statuses] == [("2.0", ("kind:early",))]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError: invalid syntax (broken_plugin.py, line 1)"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_cannot_be_imported_fails_alone(
    install: Any, source: str, cause: str
) -> None:
    install("broken", source)
    install("sound", KIND.replace("NAME", "sound"))
    (status,) = _statuses("broken")
    assert status.error == f"importing broken_plugin raised {cause}"
    assert _statuses("sound")[0].brings == ("kind:sound",)


def test_ctrl_c_while_importing_is_not_swallowed(install: Any) -> None:
    install("stopper", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_an_extra_plugin_works_beside_the_installed(install: Any, make: Any) -> None:
    install("sound", KIND.replace("NAME", "sound"))
    registry = discover(extra={"scents": make.plugin(kinds=[make.kind("scent")])})
    assert {"sound", "scent"} <= set(registry.kinds)
    assert registry.owner_of(registry.kind("scent")) == "scents"
    with pytest.raises(ConfigError, match="'Sound' has an installed distribution's name"):
        discover(extra={"Sound": make.plugin()})


def test_two_registries_share_nothing(install: Any, make: Any) -> None:
    install("sound", KIND.replace("NAME", "sound"))
    first = discover(extra={"scents": make.plugin(kinds=[make.kind("scent")])})
    second = discover()
    assert "scent" in first.kinds
    assert "scent" not in second.kinds
    assert "sound" in second.kinds


def test_plugins_are_discovered_without_heavy_imports() -> None:
    code = (
        "import sys; from sensorium.plugins.discovery import discover; r = discover(); r.commands;"
        "import sensorium.assets, sensorium.cli;"
        "print([n for n in ('torch', 'PIL', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
