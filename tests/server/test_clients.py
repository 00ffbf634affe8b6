"""Other projects' programs against the server, each in an environment of its own.

What a client does is in ``clients/``, its versions are in ``constraints/clients``. All of them ask
the same greedy question, so all of them must print the answer that this process gets.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from served import Served, served

from sensorium import AsyncEngine
from sensorium_server_openai.engine_port import EnginePort
from sensorium_tiny_models import model_path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent / "clients"
PINS = ROOT / "constraints" / "clients"
_RUN_S = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def environment(folder: Path, name: str) -> Path:
    """The Python of a new environment that holds a client, at the pinned versions alone."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "-r", str(PINS / f"{name}.txt")], check=True, timeout=900)
    subprocess.run([python, "-m", "pip", "check"], check=True, timeout=_RUN_S)
    return python


def run(python: Path, script: str, *arguments: str) -> str:
    """What a script prints; it must end well."""
    command = [str(python), str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RUN_S)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


def expected(server: Served, url: str) -> str:
    """The answer as this process gets it."""
    part = {"type": "image_url", "image_url": {"url": url}}
    content = [part, {"type": "text", "text": "What shape is this?"}]
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 48}
    answer = server.post("/v1/chat/completions", body).json()
    return str(answer["choices"][0]["message"]["content"]).strip()


@pytest.mark.parametrize("name", ["openai", "langchain", "llamaindex", "litellm"])
def test_a_client(server: Served, stop_sign: str, name: str, tmp_path: Path) -> None:
    python = environment(tmp_path / "env", name)
    said = run(python, f"{name}_client.py", server.url, stop_sign)
    assert said.splitlines()[-1] == expected(server, stop_sign)
    if name != "openai":
        return
    with (
        AsyncEngine(str(model_path()), task="embed", max_model_len=512) as engine,
        served(EnginePort.of(engine, str(model_path()))) as embedding,
    ):
        assert int(run(python, "openai_embeddings.py", embedding.url)) > 0


def test_the_description_holds_in_what_schemathesis_draws_from_it(tmp_path: Path) -> None:
    """Every answer has a status, a type and a form that ``/openapi.json`` tells of, and none is
    ours to blame. ``packages/server-openai/tests/routes/test_fuzz.py`` draws bodies that come
    further, since it knows what fields mean.
    """
    python = environment(tmp_path / "env", "schemathesis")
    checks = ("not_a_server_error", "status_code_conformance")
    checks += ("content_type_conformance", "response_schema_conformance")
    with served(ScriptedEngine()) as server:
        command = [str(python.parent / "st"), "run", f"{server.url}/openapi.json", "--seed", "1"]
        command += ["--checks", ",".join(checks), "--phases", "coverage,fuzzing"]
        command += ["--max-examples", "50", "--request-timeout", "60"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=900, cwd=tmp_path
        )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "13 passed" in done.stdout, done.stdout[-6000:]
