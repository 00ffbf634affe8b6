"""Having Sensorium installed costs another project's pytest next to nothing."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
HEAVY = {"torch", "numpy", "PIL", "safetensors", "tokenizers", "sensorium.types"}
LOADED = "import sys\nprint(*sys.modules, sep='\\n')"


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that a fresh Python has after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{LOADED}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    modules = loaded_by("import sensorium.testing.pytest_plugin")
    assert "sensorium.testing.pytest_plugin" in modules
    assert not modules & HEAVY


def test_the_check_finds_what_is_heavy() -> None:
    assert {"numpy", "sensorium.types"} <= loaded_by("import sensorium.testing.kind") & HEAVY


def test_the_entry_point_names_the_plugin() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"sensorium": "sensorium.testing.pytest_plugin"}


def test_pytest_is_needed_for_testing_alone() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    assert [line for line in project["optional-dependencies"]["testing"] if "pytest" in line]
    assert not [line for line in project["dependencies"] if "pytest" in line]


@pytest.mark.parametrize("installed", [True, False])
def test_a_strangers_tests_run_beside_it(installed: bool, tmp_path: Path) -> None:
    """By its entry point, and where pytest is told to look for none, by its name."""
    (tmp_path / "test_stranger.py").write_text(
        "import sys\n\ndef test_light():\n    assert 'torch' not in sys.modules\n"
    )
    by_name = () if installed else ("-p", "sensorium.testing.pytest_plugin")
    autoload = {} if installed else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", *by_name, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, **autoload},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
