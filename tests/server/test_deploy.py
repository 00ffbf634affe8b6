"""The files of docs/deploy: they parse, their flags exist, and they agree with the server."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensorium import ConfigError
from sensorium_server_openai.command.serve import add_arguments
from sensorium_server_openai.command.settings import Settings, gather
from sensorium_server_openai.options import MIB, Limits

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "deploy"
UNIT = FOLDER / "sensorium.service"


def settings_of(arguments: Sequence[str]) -> Settings:
    """What the command makes of its arguments; an unknown flag is a ``ConfigError``."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return gather(parser.parse_args(list(arguments)), {})


def instructions() -> dict[str, list[str]]:
    """Instruction → what follows it, each time that it stands in the Containerfile."""
    text = (FOLDER / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest.strip())
    return found


def compose() -> dict[str, Any]:
    """The service of the compose file."""
    found = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    service: dict[str, Any] = found["services"]["sensorium"]
    assert {volume.partition(":")[0] for volume in service["volumes"]} == found["volumes"].keys()
    return service


def unit() -> ConfigParser:
    """The systemd unit."""
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def test_a_flag_that_does_not_exist_is_found() -> None:
    with pytest.raises(ConfigError, match="no --shutdown-time"):
        settings_of(["tiny-vl", "--shutdown-time=30"])


def test_the_image_starts_a_server_that_exists() -> None:
    found = instructions()
    program, command, *entry = json.loads(found["ENTRYPOINT"][0])
    assert (program, command) == ("sensorium", "serve")
    settings = settings_of([*entry, *json.loads(found["CMD"][0])])
    assert (settings.model, settings.run["host"]) == ("tiny-vl", "0.0.0.0")
    assert [str(settings.run["port"])] == found["EXPOSE"]
    assert found["STOPSIGNAL"] == ["SIGTERM"]
    assert found["USER"] == ["sensorium"]
    check = found["HEALTHCHECK"][0].partition(" CMD ")[2]
    _, _, script = json.loads(check)
    compile(script, "HEALTHCHECK", "exec")
    assert f"http://127.0.0.1:{settings.run['port']}/health" in script


def test_the_image_installs_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (named,) = re.findall(r"'sensorium\[([\w,]+)\]'", instructions()["RUN"][0])
    assert set(named.split(",")) <= project["optional-dependencies"].keys()


def test_the_compose_file_agrees_with_the_image() -> None:
    service = compose()
    entry = json.loads(instructions()["ENTRYPOINT"][0])[2:]
    settings = settings_of([*entry, *service["command"]])
    build = service["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == FOLDER / "Containerfile"
    assert {port.rpartition(":")[2] for port in service["ports"]} == {str(settings.run["port"])}
    mounts = {volume.partition(":")[2] for volume in service["volumes"]}
    assert mounts == set(instructions()["VOLUME"])
    assert "SENSORIUM_API_KEY" in service["environment"]
    grace_s = float(service["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings.run["shutdown_timeout"]


def test_the_unit_starts_a_server_that_exists() -> None:
    service = unit()["Service"]
    program, command, *arguments = service["ExecStart"].split()
    assert (Path(program).name, command) == ("sensorium", "serve")
    assert arguments == ["--config", "/etc/sensorium/serve.yaml"]
    settings = settings_of(["--config", str(FOLDER / "serve.yaml")])
    assert settings.model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert float(service["TimeoutStopSec"]) > settings.run["shutdown_timeout"]
    assert service["KillMode"] == "mixed"
    assert service["Environment"] == f"HF_HOME=/var/lib/{service['StateDirectory']}"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("true")
    assert program is not None
    text = UNIT.read_text(encoding="utf-8").replace("/opt/sensorium/bin/sensorium", program)
    for name, lines, complaint in (
        ("right", text, ""),
        ("wrong", text.replace("KillMode=mixed", "KilMode=mixed"), "KilMode"),
    ):
        copy = tmp_path / f"{name}.service"
        copy.write_text(lines, encoding="utf-8")
        done = subprocess.run(
            ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
        )
        said = "\n".join(line for line in done.stderr.splitlines() if copy.name in line)
        assert (complaint in said) if complaint else not said


def test_the_proxy_allows_what_the_server_does() -> None:
    text = (FOLDER / "nginx.conf").read_text(encoding="utf-8")
    (size,) = re.findall(r"client_max_body_size (\d+)m;", text)
    (patience,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(size) * MIB >= Limits().body_bytes
    assert float(patience) >= Limits().request_s
    assert "proxy_buffering off;" in text
    assert text.count("{") == text.count("}")
