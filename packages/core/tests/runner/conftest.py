"""Random tiny models, each made once a file."""

from __future__ import annotations

import pytest
from tiny_runner import CLASSES, Model, make_model


@pytest.fixture(scope="module", params=CLASSES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random model of each decoder, its encoders' weights in the same folder."""
    return make_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """One of them, where the decoder doesn't matter."""
    return make_model("llama", tmp_path_factory.mktemp("llama"))
