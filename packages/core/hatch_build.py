"""Core's build hook: compiles the extension (see ``csrc/build.py``) into the wheel, or in place.

A wheel that holds a library is for one platform and every Python (``py3-none-manylinux…``); one
without is for any. An editable install builds beside the sources. torch is asked for at build time
only when something is to be compiled.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EXTENSION = Path("src", "sensorium", "_extension")


class ExtensionHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the libraries before hatchling gathers files."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build needs besides hatchling."""
        return ["torch>=2.10"] if _build_module(Path(self.root)).plan(need_torch=False).cpu else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, names the libraries as part of the wheel, and tags it."""
        csrc = _build_module(Path(self.root))
        cache = csrc.CACHE if csrc.HERE.parent != Path(self.root) else None
        libraries, reason = csrc.build(Path(self.root) / EXTENSION, cache)
        if reason:
            self.app.display_warning(f"not all of the extension is built: {reason}")
        build_data["artifacts"].append(f"/{EXTENSION}/{csrc.RECORD}")
        if libraries:
            build_data["artifacts"] += [f"/{EXTENSION}/{library.name}" for library in libraries]
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{csrc.platform_tag(libraries)}"


def _build_module(root: Path) -> ModuleType:
    """``csrc/build.py``: inside an unpacked sdist, or at the root of the repository."""
    for folder in (root / "csrc", root.parent.parent / "csrc"):
        if (folder / "build.py").is_file():
            spec = importlib.util.spec_from_file_location(
                "sensorium_csrc_build", folder / "build.py"
            )
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses look their module up
            spec.loader.exec_module(module)
            return module
    raise RuntimeError("csrc/build.py lies neither beside hatch_build.py nor at the root above it.")
