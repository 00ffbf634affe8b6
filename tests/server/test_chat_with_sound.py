"""``sensorium chat --audio FILE``: models in this process and behind a server hear the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from audio_files import encode, melody
from served import Served, served
from tiny_ultravox import make_ultravox

from sensorium import AsyncEngine
from sensorium.cli import main
from sensorium_server_openai.engine_port import EnginePort

ASK = ["--ask", "what is this?", "--temperature", "0", "--max-tokens", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ultravox(tmp_path_factory.mktemp("ultravox"))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with (
        AsyncEngine(str(folder), max_model_len=1024) as engine,
        served(EnginePort.of(engine, str(folder)), names=("listener",)) as running,
    ):
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two clips, in formats of both decoders."""
    names = {"one.wav": ("WAV", "PCM_16"), "two.flac": ("FLAC", "PCM_16")}
    for seed, (name, format) in enumerate(names.items()):
        (tmp_path / name).write_bytes(encode(melody(1.2, seed=seed), 16_000, *format))
    return [tmp_path / name for name in names]


def test_both_ways_hear_the_file(
    folder: Path, server: Served, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*arguments: str) -> str:
        assert main(["chat", *arguments, *ASK]) == 0
        return capsys.readouterr().out

    one, two = (["--audio", str(file)] for file in files)
    here = [answer(str(folder), *given) for given in (one, two, one + two)]
    there = [answer("--url", server.url, *given) for given in (one, two, one + two)]
    assert there == here
    assert len(set(here)) == 3, "the answer depends on the file, and on how many there are"


def test_a_file_that_is_no_sound_is_told(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.wav"
    file.write_bytes(b"words")
    assert main(["chat", "--url", server.url, "--audio", str(file), *ASK]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "audio 0: " in shown.err
