"""The curl lines of the server's README do what they show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from served import Served

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "packages" / "server-openai" / "README.md"


def commands() -> list[str]:
    """The commands of the page's shell blocks, each with the lines that continue it."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in re.split(r"\n(?=curl )", block) if line.strip()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_pages_lines(server: Served) -> None:
    said = []
    for command in commands():
        here = command.replace("http://localhost:8000", server.url)
        assert here != command
        run = ["bash", "-c", here]
        done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
        said.append(done.stdout)
    chat, stream, tokens, models = said
    assert json.loads(chat)["choices"][0]["message"]["content"]
    assert stream.startswith("data: {")
    assert stream.rstrip().endswith("data: [DONE]")
    assert json.loads(tokens)["count"] == len(json.loads(tokens)["tokens"]) > 0
    assert [card["id"] for card in json.loads(models)["data"]] == ["tiny-vl"]
