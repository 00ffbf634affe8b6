"""Putting an engine together: where it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensorium.config import EngineConfig
from sensorium.engine import assembly
from sensorium.engine.assembly import runs_apart
from sensorium.errors import ConfigError


def config(device: str = "auto", engine_process: bool | None = None) -> EngineConfig:
    return EngineConfig(model="m", device=device, engine_process=engine_process)


@pytest.fixture
def accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose driver shows a device in this file."""
    file = tmp_path / "device"
    file.touch()
    monkeypatch.setattr(assembly, "DEVICE_FILES", (str(file),))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return file


def test_the_device_decides(accelerator: Path) -> None:
    assert runs_apart(config("auto"))
    assert runs_apart(config("cuda"))
    assert runs_apart(config("cuda:1"))
    assert not runs_apart(config("cpu"))
    accelerator.unlink()
    assert not runs_apart(config("auto"))
    assert runs_apart(config("cuda")), "it will say that there is none"


@pytest.mark.parametrize(("visible", "apart"), [("", False), ("-1", False), ("0", True)])
def test_hidden_devices_are_none(
    accelerator: Path, monkeypatch: pytest.MonkeyPatch, visible: str, apart: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert runs_apart(config("auto")) is apart


def test_the_option_decides_first(accelerator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not runs_apart(config("cuda", engine_process=False))
    assert runs_apart(config("cpu", engine_process=True))
    monkeypatch.delattr("os.memfd_create")
    assert not runs_apart(config("cuda"))
    with pytest.raises(ConfigError, match="Linux"):
        runs_apart(config("cpu", engine_process=True))
    with pytest.raises(ConfigError, match="engine_process is 1"):
        config(engine_process=1)  # type: ignore[arg-type]
