"""The forms in which audio is given: ``multi_modal_data["audio"]`` and chat parts.

Nothing here decodes or copies samples. A tuple (samples, rate) is always one clip; a list is one
clip if its first entry is a number, else several. A tensor of three dimensions is embeddings
(items, tokens, hidden); one of two is embeddings (tokens, hidden) in a list, and channels alone, or
with a rate. An array of two is channels everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from sensorium.errors import MediaError, RequestError, UnsupportedError
from sensorium.media.fetch import is_url
from sensorium.types import BytesSource, GivenEmbeds, Source, UrlSource, ValueSource
from sensorium_media_audio.arrays import Clip, is_array, is_floating, is_number

#: One clip as it was given; None where the data were left out.
Entry: TypeAlias = Source | GivenEmbeds | None

EMBEDS = "audio_embeds"
_FORMS = (
    "(samples, sampling rate), an array, tensor or list of samples at the model's rate, bytes, a "
    "pathlib.Path, a URL, embeddings (a floating-point tensor (items, tokens, hidden), or a "
    "mapping with audio_embeds), or a list of these and None"
)


def split_value(value: Any) -> list[Entry]:
    """One entry a clip.

    Raises:
        MediaError: a value that is no form of audio.
    """
    if _is_clip_with_rate(value) or _is_numbers(value):
        return [_labelled_entry(0, value)]
    if isinstance(value, (list, tuple)):
        return [_labelled_entry(index, entry, listed=True) for index, entry in enumerate(value)]
    if is_array(value) and value.ndim == 3 and is_floating(value):
        return [GivenEmbeds(rows) for rows in value]
    if isinstance(value, Mapping):
        return list(_split_mapping(value))
    return [_labelled_entry(0, value)]


def part_entry(part_type: str, value: Any) -> Entry:
    """The clip of one chat part; None where its value was left out.

    Raises:
        MediaError: a value of the wrong shape.
    """
    if part_type == "audio_embeds":
        return _part_embeds(value)
    if part_type == "input_audio":
        return _input_audio(value)
    assert part_type == "audio_url", "the kind answers to no other part type"
    return _audio_url(value)


def _part_embeds(value: Any) -> GivenEmbeds:
    if isinstance(value, Mapping):
        entries = _split_mapping(value)
        if len(entries) != 1:
            raise MediaError(f"the part audio_embeds holds {len(entries)} clips; it must hold one.")
        return entries[0]
    if value is not None and not isinstance(value, str) and not is_array(value):
        raise MediaError(
            f"the part audio_embeds holds a {type(value).__name__}; it must hold a tensor, one in "
            "base64, or a mapping with audio_embeds."
        )
    return GivenEmbeds(value)


def _input_audio(value: Any) -> Source | None:
    """``{"data": BASE64, "format": …}``. The format is a claim; the bytes tell which it is."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise MediaError(
            f"input_audio is a {type(value).__name__}; it must be a mapping with data and format."
        )
    _check_keys("input_audio", value, ("data", "format"))
    data, claimed = value.get("data"), value.get("format")
    if claimed is not None and not isinstance(claimed, str):
        raise MediaError(f"input_audio's format is a {type(claimed).__name__}; it must be a text.")
    if data is None:
        return None
    if not isinstance(data, str):
        raise MediaError(f"input_audio's data is a {type(data).__name__}; it must be base64.")
    return UrlSource(f"data:;base64,{data}")


def _audio_url(value: Any) -> Source | None:
    url = value
    if isinstance(value, Mapping):
        _check_keys("audio_url", value, ("url",))
        url = value.get("url")
    if url is None:
        return None
    if not isinstance(url, str):
        raise MediaError(
            f"audio_url is a {type(url).__name__}; it must be a URL or a mapping with a url."
        )
    return UrlSource(url)


def _check_keys(name: str, value: Mapping[Any, Any], allowed: tuple[str, ...]) -> None:
    for key in value:
        if key not in allowed:
            raise MediaError(f"{name} has {str(key)!r}; allowed are {' and '.join(allowed)}.")


def _labelled_entry(index: int, value: Any, *, listed: bool = False) -> Entry:
    try:
        return _entry(value, listed=listed)
    except UnsupportedError as error:
        raise UnsupportedError(f"audio {index}: {error}") from None
    except RequestError as error:
        raise MediaError(f"audio {index}: {error}") from None


def _entry(value: Any, *, listed: bool) -> Entry:
    if value is None:
        return None
    if _is_clip_with_rate(value):
        samples, rate = value
        return ValueSource(Clip(samples, _rate(rate)))
    if isinstance(value, Mapping):
        return _part_embeds(value)
    if is_array(value):
        is_rows = isinstance(value, torch.Tensor) and value.ndim == 2 and is_floating(value)
        if listed and is_rows:
            return GivenEmbeds(value)
        return ValueSource(Clip(value))
    if _is_numbers(value):
        return ValueSource(Clip(value))
    if isinstance(value, Path):
        return ValueSource(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return BytesSource(bytes(value))
    if isinstance(value, str):
        if not is_url(value):
            raise MediaError("a text must be a URL; pass a file as pathlib.Path(...).")
        return UrlSource(value)
    raise MediaError(f"it is a {type(value).__name__}; allowed are {_FORMS}.")


def _is_clip_with_rate(value: Any) -> bool:
    """A tuple of samples and a number. In a list the number could only be a mistake."""
    if not isinstance(value, tuple) or len(value) != 2 or not is_number(value[1]):
        return False
    return is_array(value[0]) or _is_numbers(value[0]) or value[0] == []


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and is_number(value[0])


def _rate(value: Any) -> int:
    if not math.isfinite(value) or value != int(value):
        raise MediaError(f"its sampling rate is {value}; it must be a whole number.")
    return int(value)


def _split_mapping(value: Mapping[Any, Any]) -> list[GivenEmbeds]:
    if set(value) != {EMBEDS}:
        keys = ", ".join(repr(key) for key in value) or "no keys"
        raise MediaError(f"audio is a mapping with {keys}; allowed are {_FORMS}.")
    rows = value[EMBEDS]
    if rows is None or isinstance(rows, str):
        return [GivenEmbeds(rows)]
    if isinstance(rows, (list, tuple)):
        return [GivenEmbeds(entry) for entry in rows]
    if not is_array(rows) or rows.ndim not in (2, 3):
        shape = f" of shape {tuple(rows.shape)}" if is_array(rows) else ""
        raise MediaError(
            f"audio_embeds is a {type(rows).__name__}{shape}; allowed are a tensor (items, tokens, "
            "hidden) or (tokens, hidden), a list of the latter, or one in base64."
        )
    return [GivenEmbeds(entry) for entry in rows] if rows.ndim == 3 else [GivenEmbeds(rows)]
