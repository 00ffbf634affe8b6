"""A digest made in another process, where ``hash`` and ``id`` give other numbers.

Knows nothing of contracts. What goes to the other process must be importable and picklable there.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence

from sensorium.plugins.kind import MediaKind
from sensorium.types import Source

_SCRIPT = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
kind, several = pickle.load(sys.stdin.buffer)
sys.stdout.write(" ".join(kind({}).digest(sources).hex() for sources in several))
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
        data = pickle.dumps(list(sys.path)) + pickle.dumps((kind, [tuple(s) for s in several]))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise CannotTravelError(str(error)) from error
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input=data,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"digest failed in another process: {done.stderr.decode(errors='replace')[-500:]}"
    )
    return [bytes.fromhex(digest) for digest in done.stdout.decode().split()]
