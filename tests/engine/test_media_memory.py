"""Thousands of large media handed over at once stay within the budget, and none is lost.

Another process serves them, so that the files themselves don't count here.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_checkpoints import make_qwen25vl

from sensorium import AsyncEngine, SamplingParams

MIB = 2**20
NUM_REQUESTS = int(os.environ.get("SENSORIUM_TEST_NUM_REQUESTS", "2000"))
BUDGET_BYTES = 512 * MIB
#: What the process may grow by beside the budget: some 15 KiB for each request that waits, the
#: engine's own work, and the freed blocks that malloc keeps until 64 MiB of them are given back.
CONSTANT_BYTES = 128 * MIB

# Every path is another file: a comment in the JPEG says which one was asked for.
SERVE = """
import http.server, io, sys
import numpy as np
from PIL import Image
draw = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
picture = Image.fromarray(draw).resize((4000, 3000), Image.Resampling.BICUBIC)
buffer = io.BytesIO()
picture.save(buffer, "JPEG", quality=90)
jpeg = buffer.getvalue()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        comment = self.path.encode()
        segment = b"\\xff\\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment
        body = jpeg[:2] + segment + jpeg[2:]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a process that serves large pictures."""
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        yield int(made.stdout.readline())
        made.terminate()


def resident_bytes(name: str) -> int:
    """A size of this process: VmRSS is now, VmHWM the most since ``restart_peak``."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


def restart_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@pytest.mark.slow
@pytest.mark.timeout(2400)
async def test_thousands_of_large_pictures_at_once(
    port: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORIUM_IMAGE_FETCH_TIMEOUT", "600")  # however slow the machine is
    folder = make_qwen25vl(tmp_path_factory.mktemp("qwen25vl"), seed=1)
    async with AsyncEngine(
        str(folder),
        dtype="float32",
        max_model_len=256,
        engine_process=False,
        mm_processor_cache_gb=0,
        mm_processor_kwargs={"max_pixels": 56 * 56},
        media_memory_gb=BUDGET_BYTES / 2**30,
        allow_private_media_hosts=["127.0.0.1"],
    ) as engine:

        async def ask(index: int) -> int:
            prompt = {
                "prompt": "<|vision_start|><|image_pad|><|vision_end|> What?",
                "multi_modal_data": {"image": f"http://127.0.0.1:{port}/{index}"},
            }
            params = SamplingParams(temperature=0, max_tokens=1)
            num_tokens = 0
            async for output in engine.generate(prompt, params):
                num_tokens = len(output.outputs[0].token_ids)
            return num_tokens

        await ask(-1)  # whatever is loaded with the first request
        before = resident_bytes("VmRSS")
        restart_peak()
        answers = await asyncio.gather(*(ask(index) for index in range(NUM_REQUESTS)))
        grown = resident_bytes("VmHWM") - before
        assert answers == [1] * NUM_REQUESTS
        stats = engine._parts.frontend.pipeline.memory.stats
        assert (stats.used_bytes, stats.num_preparing) == (0, 0)
        await engine.check_integrity()
        print(f"grown by {grown / MIB:.0f} MiB; the budget is {BUDGET_BYTES / MIB:.0f} MiB")
        assert grown <= BUDGET_BYTES + CONSTANT_BYTES
