"""``docs/plugins.md`` says what is so."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from sensorium.plugins import hookspecs
from sensorium.plugins.claims import CHOOSABLE

FOREIGN = Path(__file__).with_name("foreign")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["pyproject.toml", "src/scent_for_sensorium/plugin.py", "src/scent_for_sensorium/scent.py"],
)
def test_the_pages_example_is_the_foreign_plugin(name: str) -> None:
    blocks = re.findall(r"^```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert (FOREIGN / name).read_text(encoding="utf-8") in blocks


def _first_cells(heading: str) -> list[str]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_every_hook_has_its_line() -> None:
    hooks = [name for name, _ in inspect.getmembers(hookspecs) if name.startswith("sensorium_")]
    assert sorted(_first_cells("The hooks")) == sorted(hooks)


def test_every_claim_has_its_line() -> None:
    assert _first_cells("Who serves what") == list(CHOOSABLE.values())


def test_the_pages_messages_are_the_real_ones(installed: Any, tmp_path: Path) -> None:
    from sensorium.plugins.discovery import discover

    sources = {
        "it states api = 1; this sensorium-core serves api = 2": "api = 1",
        "it states no api; this sensorium-core serves api = 2": "",
        "sensorium_media_kind is no hook; did you mean sensorium_media_kinds?": (
            "api = 2\ndef sensorium_media_kind(): pass"
        ),
        "its sensorium_assets lacks the decorator @hookimpl": (
            "api = 2\ndef sensorium_assets(): pass"
        ),
    }
    for number, (message, source) in enumerate(sources.items()):
        module = f"page_example_{number}"
        (tmp_path / f"{module}.py").write_text(source)
        with installed(module, tmp_path, module):
            errors = [s.error for s in discover().statuses if s.module == module]
        assert errors == [message]
        assert f"`{message}`" in PAGE
