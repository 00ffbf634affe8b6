"""`sensorium serve` as an operator runs it: a process, its banner, its answers and its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sensorium.cli import main
from sensorium_tiny_models import model_path

ENDLESS: dict[str, Any] = {"ignore_eos": True, "temperature": 0, "stream": True}
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "What shape is this?"}]}
ROOM = ["--hf-overrides", '{"max_position_embeddings": 65536}']
ROOM += ["--max-model-len", "65536", "--kv-cache-memory-bytes", str(2**28)]


@dataclass
class Running:
    """A server process.

    Attributes:
        lines: what it has said so far.
    """

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    url: str = ""

    def read_banner(self) -> None:
        """Waits for the address."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"address: +(\S+)", line):
                self.url = found[1]
                return
        pytest.fail("the server ended: " + "".join(self.lines))

    def engine_pids(self) -> list[int]:
        """The engine's process, which a thread of the server started."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        pids = [int(pid) for file in tasks.glob("*/children") for pid in file.read_text().split()]
        return [pid for pid in pids if b"sensorium.engine.ipc" in command_of(pid)]


def command_of(pid: int) -> bytes:
    """A process's command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def serving(*arguments: str, model: str = "", **environment: str) -> Iterator[Running]:
    """``sensorium serve``; without a model, the embedded one by its folder."""
    named = [model] if model else [str(model_path()), "--served-model-name", "tiny-vl"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sensorium", "serve", *named, "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    running = Running(process)
    try:
        running.read_banner()
        # Nobody may be stopped by a full pipe.
        drain = threading.Thread(target=lambda: running.lines.extend(process.stderr or ()))
        drain.start()
        yield running
    finally:
        process.kill()
        process.wait()
    drain.join()


class Stream:
    """A stream whose first token has come, read by a thread from there on."""

    def __init__(self, url: str, body: dict[str, Any], key: str = "none") -> None:
        self._client = httpx2.Client(timeout=None, headers={"Authorization": f"Bearer {key}"})
        request = self._client.build_request("POST", url + "/v1/chat/completions", json=body)
        self._response = self._client.send(request, stream=True)
        self.events: list[str] = []
        lines = self._response.iter_lines()
        for line in lines:
            if '"content":"' in line and '"content":""' not in line:
                break
        self._thread = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self._thread.start()

    def _read(self, lines: Iterator[str]) -> None:
        with contextlib.suppress(httpx2.HTTPError):
            self.events += [line.removeprefix("data: ") for line in lines if line]

    def rest(self) -> list[str]:
        """The events behind the first token."""
        self._thread.join()
        self._client.close()
        return self.events


def test_a_server_from_its_banner_to_its_end() -> None:
    ask = {**ENDLESS, **ASK, "max_completion_tokens": 400}
    with serving(*ROOM, "--shutdown-timeout", "3600", SENSORIUM_API_KEY="k1,k2") as running:
        said = "".join(running.lines)
        for word in ("tiny-vl", "cpu", "attention", "KV cache", "image", "API keys:  2"):
            assert word in said
        with httpx2.Client(base_url=running.url, timeout=60) as client:
            assert client.get("/health").status_code == 200
            assert client.get("/v1/models").status_code == 401
            client.headers["Authorization"] = "Bearer k2"
            [card] = client.get("/v1/models").json()["data"]
            assert (card["id"], card["max_model_len"]) == ("tiny-vl", 65536)
        stream = Stream(running.url, ask, "k1")
        running.process.send_signal(signal.SIGTERM)
        events = stream.rest()
        assert running.process.wait(60) == 0
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
    assert not any("Traceback" in line for line in running.lines)


def resident_mib(pid: int) -> float:
    """What a process holds in memory of its own."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_engine_that_dies_fails_its_requests_and_comes_back() -> None:
    """Under load: some requests run, others wait for a place.

    Whatever fails, the server is killed first, which ends the requests that the pool waits for.
    """
    held: list[float] = []
    opened: list[int] = []
    told: list[int] = []
    with (
        ThreadPoolExecutor(4) as pool,
        serving(*ROOM, "--max-num-seqs", "2") as running,
        httpx2.Client(base_url=running.url, timeout=None) as client,
    ):
        for _ in range(20):
            kill_the_engine_under_load(running, client, pool)
            told.append(client.get("/health").status_code)
            answer = client.post("/v1/chat/completions", json={**ASK, "max_completion_tokens": 3})
            assert answer.status_code == 200, "a request that comes meanwhile waits for the engine"
            assert client.get("/health").status_code == 200
            held.append(resident_mib(running.process.pid))
            opened.append(len(list(Path(f"/proc/{running.process.pid}/fd").iterdir())))
        assert figure(client, "engine_restarts_total") == 20
    # An engine takes seconds to start: not each time can this process be too late to see it.
    assert 503 in told
    assert max(held[5:]) < held[4] + 16, held
    assert max(opened[5:]) <= max(opened[:5]), opened


def kill_the_engine_under_load(
    running: Running, client: httpx2.Client, pool: ThreadPoolExecutor
) -> None:
    """Two streams run and four requests wait; each of them is told of the engine's end."""
    endless = {**ENDLESS, **ASK, "max_completion_tokens": 60000}
    streams = [Stream(running.url, endless) for _ in range(2)]
    waiting = [
        pool.submit(
            httpx2.post,
            running.url + "/v1/chat/completions",
            json={**endless, "stream": False},
            timeout=None,
        )
        for _ in range(4)
    ]
    while figure(client, "num_requests_waiting") < len(waiting):
        time.sleep(0.05)
    [pid] = running.engine_pids()
    os.kill(pid, signal.SIGKILL)
    for stream in streams:
        *_, error, done = stream.rest()
        assert json.loads(error)["error"]["code"] == 503
        assert done == "[DONE]"
    for answer in (entry.result() for entry in waiting):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]


def figure(client: httpx2.Client, name: str) -> float:
    """One of ``/metrics``."""
    text = client.get("/metrics").text
    found = re.search(rf"^sensorium:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_the_embedded_model_is_served_by_its_name() -> None:
    with serving(model="tiny-vl") as running, httpx2.Client(base_url=running.url) as client:
        client.timeout = None
        [card] = client.get("/v1/models").json()["data"]
        assert card["id"] == "tiny-vl"
        answer = client.post("/v1/chat/completions", json={**ASK, "max_completion_tokens": 8})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--swap-space", "4"], "swapped"),
        (["--max-model-lenght", "4"], "--max-model-len"),
        (["--tool-call-parser", "morse"], "hermes"),
        (["--ssl-keyfile", "key.pem"], "--ssl-certfile"),
        (["--host", "203.0.113.1"], "can't listen"),
        (["--dtype", "int4"], "dtype"),
        (["--load-format", "gguf"], "safetensors"),
        (["--runner", "draft"], "pooling"),
        (["--task", "classify"], "embed"),
        (["--chat-template-content-format", "xml"], "openai"),
        (["--generation-config", "vllm"], "sensorium"),
        (["--max-logprobs", "-2"], "max_logprobs"),
        (["--gpu-memory-utilization", "1.5"], "at most 1"),
        (["--tensor-parallel-size", "2"], "tensor_parallel_size"),
        (["--limit-mm-per-prompt", '{"odour": 1}'], "odour"),
        (["--media-io-kwargs", '{"image": {"gamma": 1}}'], "gamma"),
        (["--mm-processor-kwargs", '{"gamma": 1}'], "gamma"),
        (["--allowed-media-domains", "http://a.example"], "allowed_media_domains"),
        (["--allowed-local-media-path", "/no/such/folder"], "allowed_local_media_path"),
        (["--chat-template", "/no/such/file.jinja"], "chat"),
    ],
)
def test_what_cannot_work_is_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    assert main(["serve", str(model_path()), "--port", "0", *arguments]) == 1
    said = capsys.readouterr().err
    assert word in said
    assert "Traceback" not in said
