"""The two schemes of tokenizers, as transformers and as we load them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import write_llama_like, write_qwen_like

from sensorium.tokenizer import Tokenizer


@dataclass(frozen=True)
class Pair:
    """One folder's tokenizer: ours, and transformers' as the oracle."""

    folder: Path
    ours: Tokenizer
    oracle: Any


@pytest.fixture(scope="session", params=["qwen", "llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Each scheme in turn."""
    return load(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Byte-level BPE."""
    return load("qwen", tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """SentencePiece-like BPE."""
    return load("llama", tmp_path_factory.mktemp("llama"))


def load(scheme: str, folder: Path) -> Pair:
    """Writes and loads it with both."""
    from transformers import AutoTokenizer

    (write_qwen_like if scheme == "qwen" else write_llama_like)(folder)
    return Pair(folder, Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder))
