"""From what a caller gives to what the engine takes.

    ParsedPrompt or a conversation
      ├─ items (split, limits) → MediaPipeline: fetch, decode, plan, process (threads)
      └─ text → TokenizedPrompt, placeholders still in it
      → ModelFamily.compose → PreparedPrompt

Everything here runs on the CPU, before a request is admitted; nothing touches the device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sensorium.errors import LimitError
from sensorium.frontend.chat import ChatFrontend, Conversation
from sensorium.frontend.placeholders import tokenize_prompt
from sensorium.frontend.prompts import ParsedPrompt
from sensorium.media.pipeline import MediaPipeline
from sensorium.plugins import MediaAdapter, ModelContext, ModelFamily, TokenizedPrompt
from sensorium.tokenizer import Tokenizer
from sensorium.types import Composition, MediaItem, PreparedItem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt with its media in place, ready for admission.

    Attributes:
        text: as given, or as the chat template rendered it; None for token ids.
        num_hits: items found in the processor cache.
    """

    text: str | None
    composition: Composition
    items: tuple[PreparedItem, ...]
    salt: str
    num_hits: int
