"""The forms in which images are given: ``multi_modal_data["image"]`` and chat parts.

Nothing here reads or decodes an image; only floats are inspected, to tell embeddings apart.
Embeddings go on to ``embeds``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from sensorium.errors import MediaError, RequestError, UnsupportedError
from sensorium.media.fetch import is_url
from sensorium.types import BytesSource, GivenEmbeds, Source, UrlSource, ValueSource
from sensorium_media_image.arrays import is_array, is_embedding, is_floating, picture_size
from sensorium_media_image.embeds import EMBEDS, split_mapping, split_rows

#: One image as it was given; None where the data were left out.
Entry: TypeAlias = Source | GivenEmbeds | None

_FORMS = (
    "a PIL image, an array or tensor (3-D, or 4-D for several), bytes, a pathlib.Path, a data: "
    "URL, embeddings (a floating-point tensor (items, tokens, hidden), or a mapping with "
    "image_embeds), or a list of these and None"
)


def split_value(value: Any, embedding_width: int | None = None) -> list[Entry]:
    """One entry an image.

    Args:
        embedding_width: numbers in a row of embeddings; None: not known.

    Raises:
        MediaError: a value in a form that images aren't given in.
    """
    if isinstance(value, (list, tuple)):
        return [_labelled_entry(index, entry, embedding_width) for index, entry in enumerate(value)]
    if is_array(value) and value.ndim == 4:
        return _batch_sources(value)
    if is_array(value) and is_embedding(value, embedding_width):
        return list(split_rows(value))
    if isinstance(value, Mapping):
        _check_mapping(value)
        return list(split_mapping(value))
    return [_labelled_entry(0, value, embedding_width)]


def part_entry(part_type: str, value: Any) -> Entry:
    """The image of one chat part; None where its value was left out.

    Raises:
        MediaError: a value of the wrong shape.
        UnsupportedError: a ``detail`` that isn't built.
    """
    if part_type == "image_embeds":
        return _part_embeds(value)
    if part_type == "image_url":
        return _url_source(value)
    assert part_type == "image_pil", "the kind answers to no other part type"
    if value is None:
        return None
    if not isinstance(value, Image.Image):
        raise MediaError(
            f"the part image_pil holds a {type(value).__name__}; it must hold a PIL image."
        )
    return ValueSource(value)


def _part_embeds(value: Any) -> GivenEmbeds:
    if isinstance(value, Mapping):
        _check_mapping(value)
        entries = split_mapping(value)
        if len(entries) != 1:
            raise MediaError(
                f"the part image_embeds holds {len(entries)} images; it must hold one."
            )
        return entries[0]
    if value is not None and not isinstance(value, str) and not is_array(value):
        raise MediaError(
            f"the part image_embeds holds a {type(value).__name__}; it must hold a tensor, one in "
            "base64, or a mapping with image_embeds."
        )
    return GivenEmbeds(value)


def _url_source(value: Any) -> Source | None:
    url = value
    if isinstance(value, Mapping):
        unknown = [str(key) for key in value if key not in ("url", "detail")]
        if unknown:
            raise MediaError(f"image_url has {unknown[0]!r}; allowed are url and detail.")
        if value.get("detail") not in (None, "auto"):
            raise UnsupportedError(
                f"image_url's detail is {value['detail']!r}; only 'auto' is built so far."
            )
        url = value.get("url")
    if url is None:
        return None
    if not isinstance(url, str):
        raise MediaError(
            f"image_url is a {type(url).__name__}; it must be a URL or a mapping with a url."
        )
    return UrlSource(url)


def _labelled_entry(index: int, value: Any, embedding_width: int | None) -> Entry:
    try:
        return _entry(value, embedding_width)
    except UnsupportedError as error:
        raise UnsupportedError(f"image {index}: {error}") from None
    except RequestError as error:
        raise MediaError(f"image {index}: {error}") from None


def _entry(value: Any, embedding_width: int | None) -> Entry:
    if isinstance(value, Mapping):
        return _part_embeds(value)
    # In a list, (tokens, hidden) is an item's embeddings; alone, (items, tokens, hidden) is.
    if is_array(value) and (
        (value.ndim == 2 and is_floating(value)) or is_embedding(value, embedding_width)
    ):
        return GivenEmbeds(value)
    return _source(value)


def _source(value: Any) -> Source | None:
    if value is None:
        return None
    if isinstance(value, (Image.Image, Path)):
        return ValueSource(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return BytesSource(bytes(value))
    if isinstance(value, str):
        if not is_url(value):
            raise MediaError("a text must be a URL; pass a file as pathlib.Path(...).")
        return UrlSource(value)
    if is_array(value):
        return _array_source(value)
    raise MediaError(f"it is a {type(value).__name__}; allowed are {_FORMS}.")


def _array_source(value: Any) -> Source:
    if value.ndim == 2:
        raise MediaError(
            f"an array of shape {tuple(value.shape)} has no channels; pass (height, width, 1)."
        )
    picture_size(tuple(value.shape))
    return ValueSource(value)


def _batch_sources(batch: Any) -> list[Entry]:
    picture_size(tuple(batch.shape[1:]))
    return [ValueSource(batch[index]) for index in range(batch.shape[0])]


def _check_mapping(value: Mapping[Any, Any]) -> None:
    if EMBEDS not in value:
        keys = ", ".join(repr(key) for key in value) or "no keys"
        raise MediaError(f"image is a mapping with {keys}; allowed are {_FORMS}.")
