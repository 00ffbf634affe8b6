"""``ParsedPrompt``: every form in which a prompt may be given, brought to one.

Knows nothing of tokenizers, models or media: it only reads the caller's structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sensorium.errors import RequestError

#: Text, token ids, or a mapping with "prompt" or "prompt_token_ids" and the keys below.
PromptInput: TypeAlias = "str | Sequence[int] | Mapping[str, Any]"

_KEYS = (
    "prompt",
    "prompt_token_ids",
    "multi_modal_data",
    "multi_modal_uuids",
    "mm_processor_kwargs",
    "cache_salt",
)


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """One prompt: text or token ids (exactly one), and what comes with it."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    media: Mapping[str, Any] = field(default_factory=dict)
    uuids: Mapping[str, Any] | None = None
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    salt: str = ""


def split_prompts(prompts: PromptInput | Sequence[PromptInput]) -> list[PromptInput]:
    """One prompt or a list of them → a list. A list of integers is one prompt."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise RequestError(
            f"A prompt is a {type(prompts).__name__}; allowed are text, a list of token ids, "
            "a mapping, or a list of these."
        )
    if prompts and all(_is_token_id(entry) for entry in prompts):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def parse_prompt(prompt: PromptInput) -> ParsedPrompt:
    """Reads one prompt.

    Raises:
        RequestError: a form or a key that isn't allowed.
    """
    if isinstance(prompt, str):
        return ParsedPrompt(text=prompt)
    if isinstance(prompt, Mapping):
        return _parse_mapping(prompt)
    if isinstance(prompt, Sequence):
        return ParsedPrompt(token_ids=_token_ids(prompt))
    raise RequestError(
        f"A prompt is a {type(prompt).__name__}; allowed are text, a list of token ids or a "
        "mapping."
    )


def _parse_mapping(prompt: Mapping[str, Any]) -> ParsedPrompt:
    unknown = [key for key in prompt if key not in _KEYS]
    if unknown:
        raise RequestError(f"A prompt has the key {unknown[0]!r}; allowed are {', '.join(_KEYS)}.")
    text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
    if (text is None) == (token_ids is None):
        raise RequestError('A prompt must have exactly one of "prompt" and "prompt_token_ids".')
    if text is not None and not isinstance(text, str):
        raise RequestError(f'"prompt" is a {type(text).__name__}; it must be text.')
    salt = prompt.get("cache_salt") or ""
    if not isinstance(salt, str):
        raise RequestError(f'"cache_salt" is a {type(salt).__name__}; it must be text.')
    uuids = prompt.get("multi_modal_uuids")
    return ParsedPrompt(
        text=text,
        token_ids=None if token_ids is None else _token_ids(token_ids),
        media=_mapping(prompt, "multi_modal_data"),
        uuids=None if uuids is None else _mapping(prompt, "multi_modal_uuids"),
        processor_kwargs=_mapping(prompt, "mm_processor_kwargs"),
        salt=salt,
    )


def _mapping(prompt: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = prompt.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError(f'"{key}" is a {type(value).__name__}; it must be a mapping.')
    return value


def _token_ids(values: Sequence[Any]) -> tuple[int, ...]:
    for value in values:
        if not _is_token_id(value):
            raise RequestError(f"A prompt's token ids hold {value!r}; only integers are allowed.")
    return tuple(int(value) for value in values)


def _is_token_id(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
