"""Settings for every test of the repository: no test reaches a model hub."""

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from visiting what the imported libraries hold.

    Each engine that closes collects, which takes 0.2 s of a process with torch and transformers.
    """
    gc.freeze()


@pytest.fixture(scope="session")
def popen() -> Iterator[Any]:
    """A ``subprocess.Popen`` for Python with torch and the packages, which needn't import them."""
    from warm_python import warm_popen

    with warm_popen() as warm:
        yield warm
