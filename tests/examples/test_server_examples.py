"""Every example of the server runs as it stands, against a server on loopback."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from served import Served, served
from tiny_checkpoints import make_llava, make_minicpmv, make_phi3v
from tiny_ultravox import make_ultravox

from sensorium import AsyncEngine
from sensorium.assets.audio import AudioAsset
from sensorium.assets.image import ImageAsset
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
    found = {path.stem for path in EXAMPLES.glob("server_*.py")}
    assert found == {*ANSWERS, "server_audio"}


@pytest.mark.parametrize("name", ANSWERS)
def test_on_the_embedded_model(name: str, tiny_vl: Served) -> None:
    lines = run(name, tiny_vl.url + "/v1")
    assert len(lines) >= ANSWERS[name]
    if name == "server_uuids":
        assert len(set(lines)) == 1, "the same picture under its name gives the same answer"


def test_pictures_at_addresses(tmp_path: Path) -> None:
    """As the seed's page has it: the server fetches what the client names."""
    for name in ("cherry_blossom", "stop_sign"):
        ImageAsset(name).pil_image.save(tmp_path / f"{name}.jpg")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    files = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    names = ("stop_sign", "cherry_blossom", "stop_sign")
    urls = [f"http://127.0.0.1:{files.server_port}/{name}.jpg" for name in names]
    options: dict[str, Any] = {"max_model_len": 2048, "allow_private_media_hosts": True}
    with (
        AsyncEngine(str(model_path()), **options) as engine,
        served(EnginePort.of(engine, str(model_path()))) as server,
    ):
        assert len(run("server_images", server.url + "/v1", *urls)) >= ANSWERS["server_images"]
    files.shutdown()
    files.server_close()


def test_images_on_phi3v(tmp_path: Path) -> None:
    """The family for which the example is written, here with random weights."""
    folder = make_phi3v(tmp_path)
    with (
        AsyncEngine(
            str(folder),
            trust_remote_code=True,
            max_model_len=4096,
            limit_mm_per_prompt={"image": 2},
        ) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        assert len(run("server_images", server.url + "/v1")) >= 2


def test_embeddings_on_llava(tmp_path: Path) -> None:
    """The family whose embeddings need nothing beside them, here with random weights."""
    folder = make_llava(tmp_path, seed=2)
    with (
        AsyncEngine(str(folder), max_model_len=512, chat_template=LLAVA_CHAT) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        assert run("server_image_embeds", server.url + "/v1", str(folder))


def test_embeddings_on_minicpmv(tmp_path: Path) -> None:
    """The family whose embeddings come with the images' sizes, here with random weights."""
    folder = make_minicpmv(tmp_path)
    with (
        AsyncEngine(str(folder), trust_remote_code=True, max_model_len=512) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        assert run("server_image_embeds", server.url + "/v1", str(folder))


LLAVA_CHAT = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}ASSISTANT:"
)


def test_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base64, a URL that the server fetches, and a uuid alone give the same answer."""
    folder = AudioAsset("winning_call").get_local_path().parent
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    files = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=files.serve_forever, daemon=True).start()
    monkeypatch.setenv("SENSORIUM_ASSETS_URL", f"http://127.0.0.1:{files.server_port}")
    model = str(make_ultravox(tmp_path))
    options: dict[str, Any] = {"max_model_len": 1024, "allow_private_media_hosts": True}
    with AsyncEngine(model, **options) as engine, served(EnginePort.of(engine, model)) as server:
        text = "\n".join(run("server_audio", server.url + "/v1"))
    files.shutdown()
    files.server_close()
    assert text.count("Chat completion output from") == 3
