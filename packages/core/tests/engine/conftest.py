"""A random tiny model, made once a file."""

from __future__ import annotations

import pytest
from tiny_runner import Model, make_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Its decoder doesn't matter here."""
    return make_model("llama", tmp_path_factory.mktemp("llama"))
