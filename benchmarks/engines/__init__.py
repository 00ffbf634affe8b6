"""Engines that scripts time on the same work: ``Class(folder, options).run(requests, out_len)``.

``folder`` holds a model without weights, which are drawn; ``options`` are the engine's own. ``run``
answers greedily, takes no notice of end-of-text, and returns how many tokens each request got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt: token ids with one placeholder an image, or text where a model needs it."""

    prompt: list[int] | str
    images: list[Image.Image]


class Engine(Protocol):
    """What can be timed."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None: ...

    def run(self, requests: Sequence[Request], out_len: int) -> list[int]:
        """How many tokens each request got."""
