"""Engines that scripts time on the same work: ``Class(folder, options).run(requests, out_len)``.

``folder`` holds a model without weights, which are drawn; ``options`` are the engine's own. ``run``
answers greedily, takes no notice of end-of-text, and returns how many tokens each request got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt: token ids with one placeholder an item, or text where a model needs it.

    Attributes:
        media: kind → items.
    """

    prompt: list[int] | str
    media: Mapping[str, list[Any]] = field(default_factory=dict)


class Engine(Protocol):
    """What can be timed."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None: ...

    def run(self, requests: Sequence[Request], out_len: int) -> list[int]:
        """How many tokens each request got."""
