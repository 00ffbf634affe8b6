"""The server over TLS: with a certificate of its own, and with clients that must have one."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from scripted_engine import ScriptedEngine
from served import Served, served

from sensorium import ConfigError
from sensorium_server_openai import ServerOptions
from sensorium_server_openai.command.life import check
from sensorium_server_openai.command.settings import Settings

ASK = {"messages": [{"role": "user", "content": "Hi"}]}
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates, of the server and of somebody else, each its own authority."""
    made = tmp_path_factory.mktemp("tls")
    for name in ("server", "other"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(made / f"{name}.key"), "-out", str(made / f"{name}.pem")]
        subprocess.run(command, check=True, capture_output=True)
    return made


def run_options(folder: Path, **more: Any) -> dict[str, Any]:
    certificate = {"ssl_certfile": str(folder / "server.pem")}
    return {**certificate, "ssl_keyfile": str(folder / "server.key"), **more}


def client(server: Served, trusted: Path, own: Path | None = None) -> httpx2.Client:
    context = ssl.create_default_context(cafile=str(trusted))
    if own is not None:
        context.load_cert_chain(own, own.with_suffix(".key"))
    return httpx2.Client(base_url=f"https://127.0.0.1:{server.port}", verify=context, timeout=60)


def test_answers_and_streams_are_encrypted(folder: Path) -> None:
    with served(ScriptedEngine(), run=run_options(folder)) as server:
        with client(server, folder / "server.pem") as trusting:
            whole = trusting.post("/v1/chat/completions", json=ASK)
            assert whole.json()["choices"][0]["message"]["content"] == "Hello there."
            stream = trusting.post("/v1/chat/completions", json={**ASK, "stream": True})
            assert stream.text.rstrip().endswith("data: [DONE]")
        with client(server, folder / "other.pem") as doubting, pytest.raises(httpx2.ConnectError):
            doubting.get("/health")
        with pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://127.0.0.1:{server.port}/health", timeout=60)


def test_clients_without_a_certificate_are_turned_away(folder: Path) -> None:
    wanted = {"ssl_ca_certs": str(folder / "other.pem"), "ssl_cert_reqs": int(ssl.CERT_REQUIRED)}
    with served(ScriptedEngine(), run=run_options(folder, **wanted)) as server:
        with client(server, folder / "server.pem", folder / "other.pem") as known:
            assert known.get("/health").status_code == 200
        for own in (None, folder / "server.pem"):
            with (
                client(server, folder / "server.pem", own) as stranger,
                pytest.raises(httpx2.TransportError),
            ):
                stranger.get("/health")


def test_files_that_are_no_certificates_are_a_sentence(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for changed in ({"ssl_certfile": str(broken)}, {"ssl_keyfile": str(folder / "other.key")}):
        run = run_options(folder, **changed)
        settings = Settings("m", {}, ServerOptions(served_model_names=("m",)), run)
        with pytest.raises(ConfigError, match="TLS can't be set up"):
            check(settings)
