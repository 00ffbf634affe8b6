"""`sensorium demo`: what it asks, shows and says is missing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from PIL import Image

from sensorium_tiny_models import demo
from sensorium_tiny_models.clips import CLIP_TYPES
from sensorium_tiny_models.questions import QUESTION_TYPES


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(options)


def test_every_type_is_asked() -> None:
    count = len(QUESTION_TYPES)
    pictures = demo.draw_items(1, count, clips=False)
    assert {item.question_type for item in pictures} == set(QUESTION_TYPES)
    both = demo.draw_items(1, count, clips=True)
    assert [item.answer for item in both[:count]] == [item.answer for item in pictures]
    assert {item.question_type for item in both[count:]} == set(CLIP_TYPES)
    assert all(bool(item.clip) != bool(item.images) for item in both)


def test_every_kind_is_answered_and_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    assert demo.run(parsed("--count", "1", "--sheet", str(sheet))) == 0
    said = capsys.readouterr().out
    for item in demo.draw_items(1, 1, clips=True):
        assert item.question in said
    assert " of 3 right" in said
    assert "There is more" not in said
    with Image.open(sheet) as drawn:
        assert drawn.width == 3 * 250


def test_a_kind_that_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORIUM_DISABLED_PLUGINS", "sensorium-media-video")
    assert demo.run(parsed("--count", "1", "--sheet", str(tmp_path / "sheet.png"))) == 0
    said = capsys.readouterr().out
    assert " of 2 right" in said
    assert "There is more to see: No installed plugin serves the kind 'video'" in said


def test_a_clip_of_the_callers_is_asked_about(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (item,) = demo.draw_items(1, 1, clips=True)[1:]
    file = tmp_path / "clip.gif"
    first, *others = item.clip
    first.save(file, save_all=True, append_images=others, duration=500)
    assert demo.run(parsed("--video", str(file), "--ask", item.question)) == 0
    assert item.question in capsys.readouterr().out
    file.write_bytes(b"no clip")
    assert demo.run(parsed("--video", str(file), "--ask", item.question)) == 2
    assert "sensorium demo: " in capsys.readouterr().err
