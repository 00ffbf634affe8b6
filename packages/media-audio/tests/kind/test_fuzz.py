"""Damaged files: our own errors, or a clip; never anything else."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
from audio_files import AV_FILES, SOUNDFILE_FILES, encode, encode_av, melody

from sensorium.errors import LimitError, MediaError
from sensorium.types import BytesSource
from sensorium_media_audio.av_decoder import is_installed
from sensorium_media_audio.kind import AudioKind

NUM_INPUTS = 100_000
MOST_GROWTH_BYTES = 64 * 2**20
ROOT = Path(__file__).parents[4]


@lru_cache
def small_files() -> tuple[bytes, ...]:
    """One in every format and codec, a tenth of a second long."""
    clip = melody(0.1)
    files = [encode(clip, 16_000, *names) for names in SOUNDFILE_FILES]
    if is_installed():
        for container, codec in AV_FILES:
            rate = 48_000 if codec == "libopus" else 16_000
            files.append(encode_av(melody(0.1, rate), rate, container, codec))
    return tuple(files)


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = int(len(mutated) * rng.random() ** 3)  # headers more often than samples
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


def outcome(kind: AudioKind, data: bytes) -> str:
    source = BytesSource(data)
    try:
        kind.probe([source])
        loaded = kind.load([source])
    except (MediaError, LimitError) as error:
        assert str(error).endswith(".")  # noqa: PT017 - which outcome it is isn't known before
        return type(error).__name__
    assert 0 < len(loaded.value) <= 16_000 * 20 + 1
    assert abs(loaded.value).max() < 20
    return "loaded"


PROGRAM = """
import faulthandler, random, resource, sys
from test_fuzz import mutate, outcome, small_files
from sensorium_media_audio.kind import AudioKind

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

seed, count = sys.argv[1], int(sys.argv[2])
rng, files = random.Random(seed), small_files()
kind = AudioKind({"max_duration_s": 20})
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
outcomes, settled = {}, 0
for i in range(count):
    if i == count // 4:
        settled = resident_bytes()  # caches and allocators have what they need
    faulthandler.dump_traceback_later(10, exit=True)
    data = mutate(rng.choice(files), rng)
    with open(sys.argv[3], "wb") as last:
        last.write(data)
    result = outcome(kind, data)
    outcomes[result] = outcomes.get(result, 0) + 1
faulthandler.cancel_dump_traceback_later()
print(sum(outcomes.values()), outcomes.get("loaded", 0), outcomes.get("MediaError", 0),
      resident_bytes() - settled)
"""


def fuzz(seed: str, count: int, last: Path) -> tuple[int, int, int, int]:
    """In a process of its own. Inputs tried, loaded and refused, and the process's growth in bytes.

    Args:
        last: where the input that was tried last is left, for whoever looks into a crash.
    """
    paths = [str(Path(__file__).parent), str(ROOT / "tests" / "support")]
    program = f"import sys; sys.path[:0] = {paths}\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program, seed, str(count), str(last)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tried, loaded, refused, growth = map(int, done.stdout.split())
    return tried, loaded, refused, growth


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_hundred_files(tmp_path: Path) -> None:
    tried, loaded, refused, _ = fuzz("short", 500, tmp_path / "last")
    assert tried == 500
    assert min(loaded, refused) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    tried, loaded, refused, growth = fuzz("long", NUM_INPUTS, tmp_path / "last")
    assert tried == NUM_INPUTS
    assert min(loaded, refused) > NUM_INPUTS // 20
    assert growth < MOST_GROWTH_BYTES
