"""Mutated files in a process of its own: our own errors or a value; no crash, no hang, no leak.

A kind's test says by its ``TRIAL`` what is tried. ``tried`` starts this file as a script, which
runs that trial and prints what came of it.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import runpy
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sensorium.errors import LimitError, MediaError, RequestError

_MANY = 100_000
_MOST_GROWTH_BYTES = 64 * 2**20
_MOST_MEMORY_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Trial:
    """What is tried with a kind.

    Attributes:
        files: a folder, empty at first, → the files that are mutated.
        load: reads and checks what a file holds, or raises one of our errors.
        patience_s: a file that takes longer is a hang.
    """

    files: Callable[[Path], Sequence[bytes]]
    load: Callable[[bytes], None]
    patience_s: float = 10.0


@dataclass(frozen=True)
class Tried:
    """How many files were tried, loaded and refused as media, and by how much the process grew."""

    total: int
    loaded: int
    refused: int
    growth_bytes: int


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, lost or added, most of them in headers and in an index at the end."""
    mutated = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = int(len(mutated) * rng.random() ** rng.choice([1, 3]))
        if rng.random() < 0.2:
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


def outcome(load: Callable[[bytes], None], data: bytes) -> str:
    """ "loaded", or "refused", or "limited" where a budget was what refused it."""
    try:
        load(data)
    except (MediaError, LimitError, RequestError) as error:
        assert str(error).endswith((".", "'.")), error  # noqa: PT017 - it is the outcome
        assert "0x" not in str(error), error  # noqa: PT017
        return "limited" if isinstance(error, LimitError) else "refused"
    return "loaded"


def check_few(
    popen: Callable[..., subprocess.Popen[str]], test_file: str, folder: Path, count: int = 500
) -> None:
    """``TRIAL`` of a test's file with a few hundred files, some of which load."""
    found = tried(popen, test_file, count, folder)
    assert found.total == count
    assert min(found.loaded, found.refused) > 0


def check_many(test_file: str, folder: Path) -> None:
    """With a hundred thousand, in a Python of its own, which must not grow."""
    found = tried(subprocess.Popen, test_file, _MANY, folder)
    assert found.total == _MANY
    assert min(found.loaded, found.refused) > _MANY // 20
    assert found.growth_bytes < _MOST_GROWTH_BYTES


def tried(
    popen: Callable[..., subprocess.Popen[str]],
    test_file: str,
    count: int,
    folder: Path,
) -> Tried:
    """Runs ``TRIAL`` of a test's file.

    Args:
        popen: starts the process.
        folder: the file that was tried last is left there, for whoever looks into a crash.
    """
    (folder / "files").mkdir()
    command = [sys.executable, str(Path(__file__)), test_file, str(count), str(folder)]
    process = popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return Tried(**json.loads(said.splitlines()[-1]))


def _try_all(trial: Trial, count: int, folder: Path) -> Tried:
    rng, files = random.Random(f"{count} files"), trial.files(folder / "files")
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))
    outcomes: Counter[str] = Counter()
    settled = 0
    for i in range(count):
        if i == count // 4:
            settled = _resident_bytes()  # caches and allocators have what they need
        faulthandler.dump_traceback_later(trial.patience_s, exit=True)
        data = mutate(rng.choice(files), rng)
        (folder / "last").write_bytes(data)
        outcomes[outcome(trial.load, data)] += 1
    faulthandler.cancel_dump_traceback_later()
    growth_bytes = _resident_bytes() - settled
    return Tried(outcomes.total(), outcomes["loaded"], outcomes["refused"], growth_bytes)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _main(test_file: str, count: str, folder: str) -> None:
    faulthandler.enable()  # a crash says where
    warnings.simplefilter("ignore")
    trial: Any = runpy.run_path(test_file)["TRIAL"]
    print(json.dumps(asdict(_try_all(trial, int(count), Path(folder)))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
