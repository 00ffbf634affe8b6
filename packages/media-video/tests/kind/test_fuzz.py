"""Damaged files: our own errors, or frames; never anything else. In a process of its own."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

pytest.importorskip("imageio_ffmpeg")
pytest.importorskip("av")

from video_files import WIDTH, X264, encoded, source

from sensorium.errors import RequestError
from sensorium.types import BytesSource
from sensorium_media_video.kind import VideoKind

NUM_INPUTS = 100_000
MOST_GROWTH_BYTES = 64 * 2**20
ROOT = Path(__file__).parents[4]
MOST_PIXELS = 4 * WIDTH * WIDTH


def make_files(folder: Path) -> None:
    """One in every format and codec, a few frames long."""
    short = source(0.4, 48, 32)
    makers = {
        "h264.mp4": X264,
        "h264.mkv": X264,
        "h264.avi": X264,
        "h265.mp4": ("-c:v", "libx265", "-x265-params", "log-level=error:pools=1"),
        "vp8.webm": ("-c:v", "libvpx"),
        "vp9.webm": ("-c:v", "libvpx-vp9", "-cpu-used", "8"),
        "av1.mp4": ("-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8"),
        "mpeg4.avi": (
            "-c:v",
            "mpeg4",
        ),
        "mjpeg.avi": (
            "-c:v",
            "mjpeg",
        ),
        "some.gif": (),
        "some.apng": (),
        "some.webp": ("-loop", "0"),
    }
    for name, arguments in makers.items():
        (folder / name).write_bytes(encoded(name.split(".")[1], *arguments, given=short))


@lru_cache
def small_files(folder: Path) -> tuple[bytes, ...]:
    return tuple(file.read_bytes() for file in sorted(folder.iterdir()))


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = int(len(mutated) * rng.random() ** rng.choice([1, 3]))  # headers more often
        if rng.random() < 0.3:  # and an index at the end
            at = len(mutated) - 1 - at
        action = rng.randrange(4)
        if action == 0:
            mutated[at] = rng.choice([0, 0xFF, 0x7F, rng.randrange(256)])
        elif action == 1:
            mutated[at] ^= 1 << rng.randrange(8)
        elif action == 2:
            del mutated[at : at + rng.randrange(1, 9)]
        else:
            mutated[at:at] = rng.randbytes(rng.randrange(1, 9))
        if not mutated:
            break
    return bytes(mutated)


def outcome(kind: VideoKind, data: bytes) -> str:
    source = BytesSource(data)
    try:
        probe = kind.probe([source])
        loaded = kind.load([source])
        assert probe.shape == loaded.shape
        count, height, width = loaded.shape.size
        assert 0 < height * width <= MOST_PIXELS
        chosen = sorted({0, count // 3, count // 2, count - 1})
        try:
            for frame in loaded.value.frames(chosen):
                assert frame.shape == (height, width, 3)
        finally:
            loaded.value.close()
    except RequestError as error:
        assert str(error).endswith((".", "'."))  # noqa: PT017 - which outcome isn't known before
        assert "0x" not in str(error)  # noqa: PT017
        return "refused"
    return "loaded"


PROGRAM = """
import faulthandler, random, resource, sys
from pathlib import Path
from test_fuzz import MOST_PIXELS, mutate, outcome, small_files
from sensorium_media_video.kind import VideoKind

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

seed, count = sys.argv[1], int(sys.argv[2])
rng, files = random.Random(seed), small_files(Path(sys.argv[4]))
kind = VideoKind({"max_duration_s": 600, "max_frames": 2000, "max_frame_pixels": MOST_PIXELS})
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
outcomes, settled = {}, 0
for i in range(count):
    if i == count // 4:
        settled = resident_bytes()  # caches and allocators have what they need
    faulthandler.dump_traceback_later(60, exit=True)
    data = mutate(rng.choice(files), rng)
    with open(sys.argv[3], "wb") as last:
        last.write(data)
    result = outcome(kind, data)
    outcomes[result] = outcomes.get(result, 0) + 1
faulthandler.cancel_dump_traceback_later()
print(sum(outcomes.values()), outcomes.get("loaded", 0), outcomes.get("refused", 0),
      resident_bytes() - settled)
"""


def fuzz(seed: str, count: int, folder: Path) -> tuple[int, int, int, int]:
    """Inputs tried, loaded and refused, and the process's growth in bytes.

    The input that was tried last is left in the folder, for whoever looks into a crash.
    """
    files = folder / "files"
    files.mkdir()
    make_files(files)
    paths = [str(Path(__file__).parent), str(ROOT / "tests" / "support")]
    program = f"import sys; sys.path[:0] = {paths}\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program, seed, str(count), str(folder / "last"), str(files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tried, loaded, refused, growth = map(int, done.stdout.split()[-4:])
    return tried, loaded, refused, growth


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_hundred_files(tmp_path: Path) -> None:
    tried, loaded, refused, _ = fuzz("short", 200, tmp_path)
    assert tried == 200
    assert min(loaded, refused) > 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    tried, loaded, refused, growth = fuzz("long", NUM_INPUTS, tmp_path)
    assert tried == NUM_INPUTS
    assert min(loaded, refused) > NUM_INPUTS // 20
    assert growth < MOST_GROWTH_BYTES
