"""A hundred thousand mutated files in a process of its own: no crash, no hang, no leak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NUM_INPUTS = 100_000
MOST_GROWTH_BYTES = 64 * 2**20

PROGRAM = """
import faulthandler, io, random, resource, sys, warnings
import numpy as np
from PIL import Image
from test_fuzz import FILES, mutate, outcome
from sensorium_media_image.kind import ImageKind

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

warnings.simplefilter("ignore")
seed, count = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
pixels = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
files = []
for name, mode, options in FILES:
    for subsampling in ((0, 1, 2) if name == "JPEG" and mode == "RGB" else (None,)):
        picture, out = Image.fromarray(pixels).convert(mode), io.BytesIO()
        more = {} if subsampling is None else {"subsampling": subsampling}
        picture.save(out, name, **options, **more)
        files.append(out.getvalue())
kind = ImageKind({"max_image_pixels": 1_000_000})
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
outcomes, settled = {}, 0
for i in range(count):
    if i == count // 4:
        settled = resident_bytes()  # caches and allocators have what they need
    faulthandler.dump_traceback_later(10, exit=True)
    data = mutate(rng.choice(files), rng)
    result = outcome(kind, data)
    outcomes[result] = outcomes.get(result, 0) + 1
faulthandler.cancel_dump_traceback_later()
print(sum(outcomes.values()), outcomes.get("loaded", 0), outcomes.get("MediaError", 0),
      resident_bytes() - settled)
"""


def fuzz(seed: str, count: int) -> tuple[int, int, int, int]:
    """Inputs tried, loaded and refused, and by how many bytes the process grew."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, seed, str(count)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tried, loaded, refused, growth = map(int, done.stdout.split())
    return tried, loaded, refused, growth


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_thousand_files() -> None:
    tried, loaded, refused, growth = fuzz("long", NUM_INPUTS)
    assert tried == NUM_INPUTS
    assert loaded > NUM_INPUTS // 20
    assert refused > NUM_INPUTS // 20
    assert growth < MOST_GROWTH_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_few_in_the_same_way() -> None:
    tried, loaded, refused, _ = fuzz("short", 500)
    assert tried == 500
    assert min(loaded, refused) > 0
