"""tiny-audio's part of the demo: what it asks, what it writes, and the pictures of sounds."""

from __future__ import annotations

import argparse
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sensorium_tiny_models import demo, demo_sounds
from sensorium_tiny_models.hearing import QUESTION_TYPES


def test_every_type_is_asked_and_a_seed_asks_the_same_again() -> None:
    items = demo_sounds.draw_items(3, 10)
    assert {item.question_type for item, _ in items} == set(QUESTION_TYPES)
    again = demo_sounds.draw_items(3, 10)
    assert [item.answer for item, _ in items] == [item.answer for item, _ in again]
    others = [item.answer for item, _ in demo_sounds.draw_items(4, 40)]
    assert others != [item.answer for item, _ in demo_sounds.draw_items(3, 40)]


def test_sounds_are_heard_and_written(tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    part = demo_sounds.heard(1, 6, folder)
    assert len(part.shown) == 6
    assert sum(bool(one.right) for one in part.shown) >= 5
    assert {file.name.split("-")[0] for file in folder.iterdir()} >= {"1", "2", "3", "4", "5"}
    for file in folder.iterdir():
        with wave.open(str(file)) as opened:
            assert (opened.getframerate(), opened.getnchannels()) == (16_000, 1)
            seconds = opened.getnframes() / 16_000
            assert 1.4 < seconds < 4.1
            assert np.frombuffer(opened.readframes(10**6), dtype="<i2").any()
    for one in part.shown:
        assert all(image.getextrema()[0][0] < 255 for image in one.images), "a line is drawn"


def test_a_sound_of_the_package_is_decoded() -> None:
    (asked, sounds) = demo_sounds.draw_items(1, 2)[1]
    assert asked.question_type == "digits"
    clip = demo_sounds.samples(sounds[0])
    assert clip.dtype == np.float32
    assert len(clip) == round(2.4 * 16_000)


def test_a_sound_of_the_callers_is_asked_about(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    item, (clip,) = demo_sounds.draw_items(1, 1)[0]
    assert isinstance(clip, np.ndarray)
    file = tmp_path / "sound.wav"
    soundfile.write(file, clip, 16_000)
    given = parser.parse_args(["--audio", str(file), "--ask", item.question])
    assert demo.run(given) == 0
    assert item.answer in capsys.readouterr().out
    file.write_bytes(b"no sound")
    assert demo.run(given) == 2
    assert "sensorium demo: " in capsys.readouterr().err
    file.unlink()
    assert demo.run(given) == 2
    assert "No such file" in capsys.readouterr().err
