"""Damaged files: our own errors, or a picture; never anything else."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutated_files import Trial, check_few, check_many, mutate, outcome, tried
from PIL import Image

from sensorium.errors import MediaError
from sensorium.types import BytesSource
from sensorium_media_image.kind import ImageKind

FILES: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", {"quality": 80}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {"transparency": b"\0\1\2"}),
    ("WebP", "RGBA", {}),
    ("WebP", "RGB", {"lossless": True}),
    ("GIF", "P", {"transparency": 3}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
]
NUM_MUTATIONS = 500


KIND = ImageKind({"max_image_pixels": 1_000_000})


def load(data: bytes) -> None:
    source = BytesSource(data)
    probe = KIND.probe([source])
    loaded = KIND.load([source])
    assert loaded.value.shape == (*loaded.shape.size, 3)
    assert sorted(probe.shape.size) == sorted(loaded.shape.size)


def small_files(folder: Path) -> list[bytes]:
    """One in every format, and JPEG in every subsampling."""
    pixels = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    files = []
    for name, mode, options in FILES:
        for subsampling in (0, 1, 2) if name == "JPEG" and mode == "RGB" else (None,):
            picture, out = Image.fromarray(pixels).convert(mode), io.BytesIO()
            more = {} if subsampling is None else {"subsampling": subsampling}
            picture.save(out, name, **options, **more)
            files.append(out.getvalue())
    return files


TRIAL = Trial(small_files, load)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "mode", "options"), FILES)
def test_mutated_files(
    encode: Callable[..., bytes], noise: Image.Image, name: str, mode: str, options: dict[str, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    if name in ("JPEG", "PNG", "WebP"):
        options = {**options, "exif": exif}
    data = encode(noise.convert(mode), name, **options)
    assert outcome(load, data) == "loaded"
    rng = random.Random(f"{name} {mode}")
    outcomes = {outcome(load, mutate(data, rng)) for _ in range(NUM_MUTATIONS)}
    assert "refused" in outcomes


@pytest.mark.parametrize(("name", "mode", "options"), FILES)
def test_cut_files(
    encode: Callable[..., bytes], name: str, mode: str, options: dict[str, int]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels).convert(mode), name, **options)
    for length in range(0, len(data) // 2, max(1, len(data) // 60)):
        assert outcome(load, data[:length]) == "refused", f"cut after {length} bytes"


def test_a_second_header_is_found_out(encode: Callable[..., bytes], noise: Image.Image) -> None:
    png = encode(noise, "PNG")
    big = encode(Image.new("RGB", (2000, 1)), "PNG")
    ihdr = big[8:33]
    doubled = png[:33] + ihdr + png[33:]
    with pytest.raises(MediaError, match="the PNG file is damaged or cut off"):
        ImageKind({}).load([BytesSource(doubled)])


def test_no_warning_is_left_behind(encode: Callable[..., bytes], noise: Image.Image) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("JPEG", "PNG", "WebP", "GIF", "BMP"):
            assert outcome(load, encode(noise, name)) == "loaded"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_hundred_files(popen: type[subprocess.Popen[str]], tmp_path: Path) -> None:
    check_few(popen, __file__, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    check_many(__file__, tmp_path)


PLANTED = """
import os, time
from mutated_files import Trial

def load(data):
    if data != b"x" * 64:
        {fault}

TRIAL = Trial(lambda folder: [b"x" * 64], load, patience_s=0.5)
"""


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("raise KeyError('a surprise')", "KeyError"),
        ("os.abort()", "Aborted"),
        ("time.sleep(3600)", "Timeout"),
    ],
)
def test_a_planted_fault_is_found(
    popen: type[subprocess.Popen[str]], tmp_path: Path, fault: str, word: str
) -> None:
    file = tmp_path / "trial.py"
    file.write_text(PLANTED.format(fault=fault))
    with pytest.raises(AssertionError, match=word):
        tried(popen, str(file), 20, tmp_path)
    assert (tmp_path / "last").read_bytes() != b"x" * 64
