"""Imports point one way: between the distributions, and between the modules of core.

The rules are those of `docs/architecture.md`. Imports are read from the source, so that those
inside functions and under TYPE_CHECKING count too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Core, from the bottom up. A module imports from its own name and from lower lines, nothing else.
LEVELS = [
    [
        *("errors", "config", "items", "types"),
        *("sampling_params", "structured_outputs", "pooling_params"),
        *("outputs", "stats"),
        *("decoder_config", "logger"),
    ],
    ["plugins", "media", "multimodal", "inputs", "tokenizer", "checkpoint", "assets"],
    ["grammar"],
    ["frontend", "scheduler", "output"],
    ["ops"],
    ["models"],
    ["runner"],
    ["engine"],
    ["llm", "cli"],
    ["testing"],
    ["__main__"],
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
# Names on one level may import each other, except these three stages of a request's life.
STAGES = {"frontend", "scheduler", "output"}

# Which of our import names each distribution's code may use, besides its own.
ALLOWED = {
    "sensorium": set(),
    "sensorium_catalogue": set(),
    "sensorium_media_audio": {"sensorium"},
    "sensorium_media_image": {"sensorium"},
    "sensorium_media_video": {"sensorium", "sensorium_media_image"},
    "sensorium_server_openai": {"sensorium"},
    "sensorium_tiny_models": {"sensorium", "sensorium_media_image"},
}


def imported_names(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of every import; `from a import b` yields `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def modules_below(folder: Path) -> Iterator[tuple[Path, str, bool]]:
    """Yield (file, dotted name, is it a package) of every module below an import root."""
    for file in sorted(folder.rglob("*.py")):
        parts = list(file.relative_to(folder).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        yield file, ".".join(parts[:-1] if is_package else parts), is_package


def core_violation(importer: str, imported: str) -> str | None:
    """Say what is wrong with core's module `importer` importing `imported`, if anything is."""
    if imported.split(".")[0] != "sensorium" or importer == "sensorium":
        return None  # the package's own __init__ is the public face: it may import everything
    own = importer.split(".")[1]
    target = imported.split(".")[1] if "." in imported else ""
    if own not in LEVEL_OF:
        return f"sensorium.{own} has no level: add it to LEVELS"
    if target == own:
        return None
    if target not in LEVEL_OF:
        return f"sensorium.{own} imports {imported!r}, which is no module with a level"
    if LEVEL_OF[target] > LEVEL_OF[own]:
        return f"sensorium.{own} imports {imported!r} from a higher level"
    if {target, own} <= STAGES:
        return f"sensorium.{own} imports its sibling {imported!r}"
    return None


def test_modules_of_core_import_downwards(root: Path) -> None:
    found = []
    for file, module, is_package in modules_below(root / "packages" / "core" / "src"):
        for line, imported in imported_names(file.read_text(), module, is_package=is_package):
            if problem := core_violation(module, imported):
                found.append(f"{file.relative_to(root)}:{line}: {problem}")
    assert not found, "\n".join(found)


def test_scheduler_imports_no_torch(root: Path) -> None:
    found = []
    for file, module, is_package in modules_below(root / "packages" / "core" / "src"):
        if module.startswith("sensorium.scheduler"):
            for line, imported in imported_names(file.read_text(), module, is_package=is_package):
                if imported.split(".")[0] == "torch":
                    found.append(f"{file.relative_to(root)}:{line}: imports {imported}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "statement",
    ["import sensorium", "import sensorium.scheduler", "import sensorium.models.plugin"],
)
def test_light_imports_leave_torch_out(statement: str) -> None:
    code = f"{statement}\nimport sys\nassert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_distributions_import_one_way(root: Path) -> None:
    found = []
    for folder in sorted([root / "src", *root.glob("packages/*/src")]):
        for file, module, is_package in modules_below(folder):
            own = module.split(".")[0]
            assert own in ALLOWED, f"{own} has no line in ALLOWED"
            for line, imported in imported_names(file.read_text(), module, is_package=is_package):
                top = imported.split(".")[0]
                if top.startswith("sensorium") and top not in ALLOWED[own] | {own}:
                    found.append(f"{file.relative_to(root)}:{line}: {own} imports {imported}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("importer", "source", "problem"),
    [
        ("sensorium.scheduler.pages", "from sensorium.engine import core", "higher level"),
        ("sensorium.scheduler.pages", "from ..runner import Runner", "higher level"),
        ("sensorium.scheduler.pages", "import sensorium.frontend", "sibling"),
        ("sensorium.types", "if TYPE_CHECKING:\n    from sensorium.llm import LLM", "higher level"),
        ("sensorium.ops.rope", "def f():\n    from sensorium.models import base", "higher level"),
        ("sensorium.runner", "from sensorium import LLM", "no module with a level"),
        ("sensorium.novelty", "from sensorium import errors", "no level"),
        ("sensorium.scheduler.pages", "from . import queue\nimport sensorium.types", None),
        ("sensorium.llm", "from sensorium import engine, errors", None),
    ],
)
def test_a_planted_violation_is_found(importer: str, source: str, problem: str | None) -> None:
    imports = imported_names(source, importer, is_package=False)
    problems = [text for _, name in imports if (text := core_violation(importer, name))]
    if problem is None:
        assert problems == []
    else:
        assert [problem in text for text in problems] == [True]
