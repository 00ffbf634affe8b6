"""The catalogue is read as data, and a damaged one only makes messages poorer."""

from pathlib import Path

import pytest

from sensorium.plugins.catalogue import Catalogue, Entry, parse_catalogue, read_catalogue

TEXT = """
[kinds]
scent = { distribution = "scents", install = "pip install scents" }
[architectures]
"""


def test_a_catalogue_is_read() -> None:
    assert parse_catalogue(TEXT) == Catalogue(
        kinds={"scent": Entry("scents", "pip install scents")}
    )


@pytest.mark.parametrize(
    "text", ["not toml [", "[kinds]", TEXT + "x = 1\n", TEXT + "x = { distribution = 'y' }\n"]
)
def test_a_damaged_catalogue_counts_as_empty(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert parse_catalogue(text) == Catalogue()
    assert "can't be read" in caplog.text


def test_without_the_package_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.plugins.catalogue._PACKAGE", "no_such_catalogue")
    assert read_catalogue() == Catalogue()


def test_it_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "made_up_catalogue"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "catalogue.toml").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sensorium.plugins.catalogue._PACKAGE", "made_up_catalogue")
    assert list(read_catalogue().kinds) == ["scent"]
