"""Settings for every test of the repository: no test reaches a model hub."""

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


#: Objects that the garbage collector may have to visit; what imports leave is many times as much.
MOST_VISITED = 50_000


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from visiting what the imported libraries hold.

    Each engine that closes collects, which takes 0.2 s of a process with torch and transformers.
    """
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between two files, does so again if tests have imported much."""
    behind = nextitem is not None and nextitem.path != item.path
    if behind and len(gc.get_objects()) > MOST_VISITED:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def popen() -> Iterator[Any]:
    """A ``subprocess.Popen`` for Python with torch and the packages, which needn't import them."""
    from warm_python import warm_popen

    with warm_popen() as warm:
        yield warm
