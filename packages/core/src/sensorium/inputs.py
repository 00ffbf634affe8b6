"""``PromptType``: the forms in which a prompt may be given, as types.

How they are read is in ``frontend/prompts.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Required, TypeAlias, TypedDict

from sensorium.multimodal.inputs import MultiModalDataDict, MultiModalUUIDDict


class _WithMedia(TypedDict, total=False):
    """What may come beside a prompt: media, their names, options, and a salt for the caches."""

    multi_modal_data: MultiModalDataDict
    multi_modal_uuids: MultiModalUUIDDict
    mm_processor_kwargs: Mapping[str, Any]
    cache_salt: str


class TextPrompt(_WithMedia, total=False):
    """A prompt as text."""

    prompt: Required[str]


class TokensPrompt(_WithMedia, total=False):
    """A prompt as token ids."""

    prompt_token_ids: Required[Sequence[int]]


#: One prompt of ``generate``, ``embed`` and ``encode``.
PromptType: TypeAlias = str | Sequence[int] | TextPrompt | TokensPrompt
