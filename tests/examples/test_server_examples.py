"""Every example of the server runs as it stands, against a server on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, served
from tiny_checkpoints import make_llava

from sensorium import AsyncEngine
from sensorium_server_openai.engine_port import EnginePort
from sensorium_tiny_models import model_path

EXAMPLES = Path(__file__).parents[2] / "examples"
ANSWERS = {
    "server_images": 2,
    "server_image_embeds": 1,
    "server_uuids": 4,
    "server_stream": 1,
}


@pytest.fixture(scope="module")
def tiny_vl() -> Iterator[Served]:
    with (
        AsyncEngine(str(model_path()), max_model_len=2048) as engine,
        served(EnginePort.of(engine, str(model_path()))) as server,
    ):
        yield server


def run(name: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if line.strip()]


def test_every_example_is_listed_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("server_*.py")} == set(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
def test_on_the_embedded_model(name: str, tiny_vl: Served) -> None:
    lines = run(name, tiny_vl.url + "/v1")
    assert len(lines) >= ANSWERS[name]
    if name == "server_uuids":
        assert len(set(lines)) == 1, "the same picture under its name gives the same answer"


def test_embeddings_on_llava(tmp_path: Path) -> None:
    """The family whose embeddings need nothing beside them, here with random weights."""
    folder = make_llava(tmp_path, seed=2)
    with (
        AsyncEngine(str(folder), max_model_len=512, chat_template=LLAVA_CHAT) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        assert run("server_image_embeds", server.url + "/v1", str(folder))


LLAVA_CHAT = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}ASSISTANT:"
)
