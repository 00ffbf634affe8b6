"""Embeddings by key, on the device. The scheduler keeps the book and says what goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Embedding:
    """One item's embedding, of all its encoders.

    Attributes:
        rows: (tokens, hidden).
        deep: (levels, tokens, hidden) or None.
    """

    rows: Tensor
    deep: Tensor | None = None


class EncoderCache:
    """A dictionary that drops what it is told to, known or not."""

    def __init__(self) -> None:
        self._embeddings: dict[bytes, Embedding] = {}

    def __len__(self) -> int:
        return len(self._embeddings)

    def __contains__(self, key: bytes) -> bool:
        return key in self._embeddings

    def __getitem__(self, key: bytes) -> Embedding:
        return self._embeddings[key]

    def put(self, key: bytes, embedding: Embedding) -> None:
        """Keeps an embedding until it is dropped."""
        self._embeddings[key] = embedding

    def drop(self, keys: Iterable[bytes]) -> None:
        """Lets go of embeddings."""
        for key in keys:
            self._embeddings.pop(key, None)
