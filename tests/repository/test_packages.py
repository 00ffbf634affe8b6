"""Every package's folder has the same shape, and what the settings name exists."""

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(file.parent for file in ROOT.glob("packages/*/pyproject.toml"))


def settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


@pytest.fixture(params=PACKAGES, ids=lambda folder: folder.name)
def package(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def test_a_package_has_the_common_shape(package: Path) -> None:
    project = settings(package)["project"]
    assert project["name"] == f"sensorium-{package.name}"
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    assert settings(package)["tool"]["hatch"]["build"]["dev-mode-dirs"] == ["src"]
    assert (package / project["readme"]).is_file()
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert [file.parent.parent for file in package.glob("src/*/py.typed")] == [package / "src"]


def test_a_package_allows_every_torch_from_2_10(package: Path) -> None:
    named = [line for line in settings(package)["project"]["dependencies"] if "torch" in line]
    assert named in ([], ["torch>=2.10"])


def test_entry_points_name_modules(package: Path) -> None:
    project = settings(package)["project"]
    values = [*project.get("scripts", {}).values()]
    values += project.get("entry-points", {}).get("sensorium.plugins", {}).values()
    assert values
    for value in values:
        assert importlib.util.find_spec(value.split(":")[0]) is not None, value


def test_extras_name_existing_distributions() -> None:
    names = {settings(package)["project"]["name"] for package in PACKAGES}
    project = settings(ROOT)["project"]
    needed = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = [line for group in needed for line in group if not line.startswith("sensorium[")]
    ours = {line.split(">=")[0].split("[")[0] for line in lines}
    assert ours <= names


def test_the_catalogue_names_existing_distributions() -> None:
    import sensorium_catalogue

    tables = tomllib.loads(sensorium_catalogue.path().read_text())
    assert set(tables) == {"kinds", "architectures"}
    names = {settings(package)["project"]["name"] for package in PACKAGES}
    extras = settings(ROOT)["project"]["optional-dependencies"]
    for table in tables.values():
        for entry in table.values():
            assert set(entry) == {"distribution", "install"}
            assert entry["distribution"] in names
            extra = entry["install"].removeprefix("pip install 'sensorium[").removesuffix("]'")
            assert any(line.startswith(entry["distribution"]) for line in extras[extra])
