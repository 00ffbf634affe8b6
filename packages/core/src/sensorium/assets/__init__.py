"""Small sample media: ``from sensorium.assets.KIND import …``.

The modules come with the kinds' own distributions (hook ``sensorium_assets``); this package
only finds them. Importing it adds one finder to ``sys.meta_path``, which answers for names
below this package and for no others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from sensorium.errors import PluginError
from sensorium.plugins.discovery import discover


class _AssetLoader(Loader):
    """Puts the plugin's own module in the place of the one being imported."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def exec_module(self, module: ModuleType) -> None:
        # The import system takes what it finds here in the end, so that both names mean one
        # module, whose own attributes stay as they are.
        sys.modules[module.__name__] = self._module


class _AssetFinder(MetaPathFinder):
    """Finds ``sensorium.assets.KIND`` through the hook."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        parent, _, kind = fullname.rpartition(".")
        if parent != __name__:
            return None
        registry = discover()
        module = registry.assets.get(kind, registry.missing_asset(kind))
        if isinstance(module, PluginError):
            # Without `name`: given one, `from sensorium.assets import KIND` would replace
            # this sentence by Python's own.
            raise ModuleNotFoundError(str(module)) from module
        return ModuleSpec(fullname, _AssetLoader(module))


sys.meta_path.append(_AssetFinder())
