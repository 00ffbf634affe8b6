"""The embedded model by its name: served, chatted with, and behind a folder of that name."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import Served

from sensorium import LLM, ConfigError
from sensorium.assets.image import ImageAsset
from sensorium.cli import main
from sensorium_server_openai.command.life import serve
from sensorium_server_openai.command.settings import Settings
from sensorium_server_openai.options import ServerOptions
from sensorium_tiny_models.clips import draw_clip_item
from sensorium_tiny_models.questions import HELD_OUT, item_rng


def test_the_terminal_says_in_process_what_the_server_says(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sign.png"
    ImageAsset("stop_sign").pil_image.save(file)
    ask = ["--image", str(file), "--ask", "What shape is this?", "--temperature", "0"]
    assert main(["chat", "tiny-vl", *ask]) == 0
    here = capsys.readouterr()
    assert main(["chat", "--url", server.url, *ask]) == 0
    there = capsys.readouterr()
    assert here.out.strip()
    assert here.out == there.out
    assert here.err.split("(")[1].split(" answer")[0] == there.err.split("(")[1].split(" answer")[0]


def test_a_clip_in_the_terminal(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item = draw_clip_item(item_rng(HELD_OUT, 2, 0), HELD_OUT, "moving", (8, (112, 112)))
    file = tmp_path / "clip.gif"
    first, *others = item.clip
    first.save(file, save_all=True, append_images=others, duration=500)
    ask = ["--video", str(file), "--ask", item.question, "--temperature", "0"]
    assert main(["chat", "--url", server.url, *ask]) == 0
    assert capsys.readouterr().out.strip() == item.answer


def test_a_local_folder_of_that_name_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny-vl").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"tiny-vl has no config\.json"):
        LLM("tiny-vl")
    settings = Settings("tiny-vl", {}, ServerOptions(served_model_names=("tiny-vl",)), {"port": 0})
    with pytest.raises(ConfigError, match=r"tiny-vl has no config\.json"):
        serve(settings, say=print)
