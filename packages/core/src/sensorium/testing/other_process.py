"""A digest made in another process, where ``hash`` and ``id`` give other numbers.

Knows nothing of contracts. What goes to the other process must be importable and picklable there.
"""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence

from sensorium.plugins.kind import MediaKind
from sensorium.types import Source

#: Answers to one call after another, for importing what kinds need takes seconds.
_SCRIPT = """
import os, pickle, sys, traceback
answers = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # what kinds print is no answer
while True:
    try:
        sys.path[:], call = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        kind, several = pickle.loads(call)
        answer = [kind({}).digest(sources) for sources in several], ""
    except BaseException:
        answer = [], traceback.format_exc()
    pickle.dump(answer, answers)
    answers.flush()
"""


class CannotTravelError(Exception):
    """The kind or a value exists in this process only; the message says which."""


def digests_elsewhere(kind: type[MediaKind], several: Sequence[Sequence[Source]]) -> list[bytes]:
    """The digests of several items' sources, as a kind without options makes them elsewhere.

    Raises:
        CannotTravelError: something can't be pickled.
        AssertionError: the other process failed.
    """
    try:
        call = pickle.dumps((kind, [tuple(sources) for sources in several]))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise CannotTravelError(str(error)) from error
    process = _other_process()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump((list(sys.path), call), process.stdin)
        process.stdin.flush()
        digests, failure = pickle.load(process.stdout)
    except (EOFError, OSError):
        _other_process.cache_clear()
        digests, failure = [], f"exit status {process.wait()}"
    assert not failure, f"digest failed in another process: {failure[-500:]}"
    return list(digests)


@functools.cache
def _other_process() -> subprocess.Popen[bytes]:
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.communicate()
