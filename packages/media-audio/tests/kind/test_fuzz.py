"""Damaged files: our own errors, or a clip; never anything else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from audio_files import AV_FILES, SOUNDFILE_FILES, encode, encode_av, melody
from mutated_files import Trial, check_few, check_many

from sensorium.types import BytesSource
from sensorium_media_audio.av_decoder import is_installed
from sensorium_media_audio.kind import AudioKind

KIND = AudioKind({"max_duration_s": 20})


def small_files(folder: Path) -> list[bytes]:
    """One in every format and codec, a tenth of a second long."""
    clip = melody(0.1)
    files = [encode(clip, 16_000, *names) for names in SOUNDFILE_FILES]
    if is_installed():
        for container, codec in AV_FILES:
            rate = 48_000 if codec == "libopus" else 16_000
            files.append(encode_av(melody(0.1, rate), rate, container, codec))
    return files


def load(data: bytes) -> None:
    source = BytesSource(data)
    KIND.probe([source])
    loaded = KIND.load([source])
    assert 0 < len(loaded.value) <= 16_000 * 20 + 1
    assert abs(loaded.value).max() < 20


TRIAL = Trial(small_files, load)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_hundred_files(popen: type[subprocess.Popen[str]], tmp_path: Path) -> None:
    check_few(popen, __file__, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    check_many(__file__, tmp_path)
