"""Distributions laid out on ``sys.path``, and nothing else installed."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sensorium.plugins import discovery

Plug = Callable[[str, str], None]


class _Distribution:
    version = "1.0"

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plug]:
    """Installs a distribution with one plugin of this source; only such ones are found."""
    entries: list[EntryPoint] = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(discovery, "entry_points", lambda group: EntryPoints(entries))
    before = set(sys.modules)

    def install(distribution: str, source: str) -> None:
        module = f"{distribution.replace('-', '_')}_plugin_of_test"
        (tmp_path / f"{module}.py").write_text(source)
        entry: Any = EntryPoint("main", module, discovery.GROUP)
        vars(entry).update(dist=_Distribution(distribution))
        entries.append(entry)

    yield install
    for name in set(sys.modules) - before:
        module: ModuleType = sys.modules[name]
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
