"""What plugins' methods may return, method by method.

Each check gives back what it was given, or raises ``WrongReturnError`` with the end of the sentence
"X returned …". They look at types, lengths and counts and at no content, so that a call costs
microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sensorium.plugins.adapter import MediaAdapter, Placeholder
from sensorium.plugins.guard.door import WrongReturnError
from sensorium.plugins.kind import MediaKind
from sensorium.types import (
    BytesSource,
    DerivedItem,
    Features,
    GivenEmbeds,
    Loaded,
    MediaItem,
    MediaPlan,
    MediaShape,
    Probe,
    Source,
    UrlSource,
    ValueSource,
)

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

DIGEST_BYTES = 32
_SOURCES = (UrlSource, BytesSource, ValueSource)
_PLAIN = (str, int, float, bool, type(None))


def a(cls: type[T]) -> Callable[[Any], T]:
    """The check that a value is an instance of ``cls``."""

    def check(value: Any) -> T:
        if not isinstance(value, cls):
            raise WrongReturnError(f"{said(value)} where a {cls.__name__} belongs")
        return value

    return check


def anything(value: T) -> T:
    """No check: the value is the plugin's own."""
    return value


def plain_options(value: Any) -> Mapping[str, Any]:
    """A mapping of what a key can be made of."""
    if not isinstance(value, Mapping):
        raise WrongReturnError(f"{said(value)} where a mapping of options belongs")
    for name, option in value.items():
        if not isinstance(name, str) or not _can_be_hashed(option):
            raise WrongReturnError(f"the option {name!r} = {said(option)}, which is no plain value")
    return value


def _can_be_hashed(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject and value.dtype.names is None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (*_PLAIN, bytes)):
        return True
    if isinstance(value, (list, tuple)):
        return all(map(_can_be_hashed, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value) and all(
            map(_can_be_hashed, value.values())
        )
    return False


# --- kinds --------------------------------------------------------------------------------


def items(kind: MediaKind) -> Callable[[Any], list[MediaItem]]:
    """What ``split`` returns: a list of items, numbered."""

    def check(value: Any) -> list[MediaItem]:
        if not isinstance(value, list):
            raise WrongReturnError(f"{said(value)} where a list of items belongs")
        for index, entry in enumerate(value):
            _item(entry, kind.name)
            if entry.index != index:
                raise WrongReturnError(f"an item with the index {entry.index!r} at place {index}")
        return value

    return check


def part_item(kind: MediaKind) -> Callable[[Any], MediaItem]:
    """What ``parse_part`` returns."""
    return lambda value: _item(value, kind.name)


def _item(value: Any, kind: str) -> MediaItem:
    item = a(MediaItem)(value)
    if item.kind != kind:
        raise WrongReturnError(f"an item of the kind {item.kind!r}, which isn't its own")
    if not isinstance(item.sources, tuple) or not all(
        isinstance(source, _SOURCES) for source in item.sources
    ):
        raise WrongReturnError("an item whose sources are no tuple of sources")
    for source in item.sources:
        _source(source)
    if not isinstance(item.index, int):
        raise WrongReturnError(f"an item with the index {said(item.index)}")
    if not isinstance(item.uuid, str | None) or item.uuid == "":
        raise WrongReturnError(f"an item whose uuid is {said(item.uuid)}; it is a text or None")
    if not isinstance(item.embeds, GivenEmbeds | None):
        raise WrongReturnError(f"an item whose embeds are {said(item.embeds)}")
    if item.embeds is not None and not _has_names(item.embeds.fields):
        raise WrongReturnError("embeddings whose fields are no mapping of names")
    return item


def _source(source: Source) -> None:
    if isinstance(source, UrlSource) and not isinstance(source.url, str):
        raise WrongReturnError(f"a UrlSource of {said(source.url)}; a URL is a text")
    if isinstance(source, BytesSource):
        if not isinstance(source.data, bytes):
            raise WrongReturnError(f"a BytesSource of {said(source.data)}; it holds bytes")
        if not isinstance(source.media_type, str | None):
            raise WrongReturnError(f"a BytesSource of the media type {said(source.media_type)}")


def _has_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def shape(kind: MediaKind) -> Callable[[Any], MediaShape]:
    """A shape with the kind's extents and facts."""
    return lambda value: _shape(value, kind)


def _shape(value: Any, kind: MediaKind | None) -> MediaShape:
    if not isinstance(value, MediaShape):
        raise WrongReturnError(f"{said(value)} where a MediaShape belongs")
    if not isinstance(value.size, tuple) or not all(_is_count(extent) for extent in value.size):
        raise WrongReturnError(f"a shape of the size {value.size!r}; it is a tuple of integers")
    if not _has_names(value.facts) or not all(map(_is_fact, value.facts.values())):
        raise WrongReturnError("a shape whose facts are no mapping of plain values")
    if kind is not None and kind.size_names and len(value.size) != len(kind.size_names):
        raise WrongReturnError(
            f"a shape of the size {value.size}; size_names has {', '.join(kind.size_names)}"
        )
    if kind is not None:
        for name in value.facts:
            if name not in kind.fact_names:
                raise WrongReturnError(f"the fact {name!r}, which isn't in fact_names")
    return value


def _is_fact(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(one, _PLAIN) for one in value)
    return isinstance(value, _PLAIN)


def probe(kind: MediaKind) -> Callable[[Any], Probe]:
    """A shape, and a number of bytes."""

    def check(value: Any) -> Probe:
        told = a(Probe)(value)
        _shape(told.shape, kind)
        if not _is_count(told.decoded_bytes):
            raise WrongReturnError(f"decoded_bytes = {said(told.decoded_bytes)}")
        return told

    return check


def loaded(kind: MediaKind) -> Callable[[Any], Loaded]:
    """An item with its shape; derived items have names of their own and aren't nested."""

    def check(value: Any) -> Loaded:
        item = a(Loaded)(value)
        _shape(item.shape, kind)
        if not isinstance(item.derived, tuple):
            raise WrongReturnError(f"derived = {said(item.derived)}; it is a tuple")
        names = set()
        for found in item.derived:
            if not isinstance(found, DerivedItem) or not isinstance(found.loaded, Loaded):
                raise WrongReturnError(f"{said(found)} where a DerivedItem belongs")
            if not isinstance(found.kind, str) or not isinstance(found.name, str):
                raise WrongReturnError("a derived item whose kind and name aren't both texts")
            _shape(found.loaded.shape, None)
            if found.loaded.derived:
                raise WrongReturnError(f"a derived {found.kind} item with derived items itself")
            if (found.kind, found.name) in names:
                raise WrongReturnError(f"two derived {found.kind} items called {found.name!r}")
            names.add((found.kind, found.name))
        return item

    return check


def blank(kind: MediaKind) -> Callable[[Any], Loaded | None]:
    """An item, or None."""
    return lambda value: None if value is None else loaded(kind)(value)


def digest(value: Any) -> bytes:
    """32 bytes."""
    if not isinstance(value, bytes) or len(value) != DIGEST_BYTES:
        what = f"{len(value)} bytes" if isinstance(value, bytes) else said(value)
        raise WrongReturnError(f"{what} as a digest; it has {DIGEST_BYTES} bytes")
    return value


# --- adapters -----------------------------------------------------------------------------


def placeholder(value: Any) -> Placeholder:
    """Texts, the one inside the other once, and ids."""
    given = a(Placeholder)(value)
    if not isinstance(given.text, str) or not given.text:
        raise WrongReturnError(f"a placeholder with the text {said(given.text)}")
    if not isinstance(given.in_context, str) or given.in_context.count(given.text) != 1:
        raise WrongReturnError(
            f"a placeholder whose in_context, {said(given.in_context)}, doesn't hold its text, "
            f"{given.text!r}, exactly once"
        )
    if not isinstance(given.token_ids, tuple) or not all(map(_is_count, given.token_ids)):
        raise WrongReturnError("a placeholder whose token_ids are no tuple of ids")
    if not isinstance(given.parts_text, bool):
        raise WrongReturnError(
            f"a placeholder with parts_text = {said(given.parts_text)}; it is a bool"
        )
    return given


def template_part(value: Any) -> Mapping[str, Any] | None:
    """A part, or None."""
    if value is not None and not (isinstance(value, Mapping) and "type" in value):
        raise WrongReturnError(f"{said(value)} where a part with a type, or None, belongs")
    return value


def plan(value: Any, vocab_size: int) -> MediaPlan:
    """A plan of at least one row; that the numbers of its ids and of its mask's ones fit, it has
    checked itself."""
    given = a(MediaPlan)(value)
    if not _is_count(given.num_tokens) or given.num_tokens < 1:
        raise WrongReturnError(
            f"a plan with num_tokens = {said(given.num_tokens)}; an item has one row at least"
        )
    if not _is_count(given.num_pieces) or not 1 <= given.num_pieces <= given.num_tokens:
        raise WrongReturnError(
            f"a plan with num_pieces = {said(given.num_pieces)} of {given.num_tokens} rows; a "
            "piece has one row at least, and an item one piece"
        )
    if not isinstance(given.token_ids, tuple):
        raise WrongReturnError(f"a plan whose token_ids are {said(given.token_ids)}, no tuple")
    for token_id in set(given.token_ids):
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise WrongReturnError(
                f"a plan with the token id {token_id!r}; the vocabulary has 0 to {vocab_size - 1}"
            )
    mask = given.is_embed
    if mask is not None:
        if not isinstance(mask, bytes):
            raise WrongReturnError(f"a plan whose is_embed is {said(mask)}, no bytes")
        if mask.count(0) + mask.count(1) != len(mask):
            raise WrongReturnError("a plan whose is_embed has bytes other than 0 and 1")
    if not isinstance(given.grid, tuple) or not all(map(_is_count, given.grid)):
        raise WrongReturnError("a plan whose grid is no tuple of integers")
    if not _has_names(given.facts):
        raise WrongReturnError("a plan whose facts are no mapping of names")
    return given


def features(adapter: MediaAdapter) -> Callable[[Any], Mapping[str, Features]]:
    """Tensors in host memory, for each of the adapter's encoders."""
    import torch

    expected = sorted(adapter.encoders)

    def check(value: Any) -> Mapping[str, Features]:
        if not isinstance(value, Mapping):
            raise WrongReturnError(f"{said(value)} where features by encoder belong")
        if sorted(value) != expected:
            given = ", ".join(map(str, sorted(value))) or "nothing"
            raise WrongReturnError(f"features for {given}; its encoders are {', '.join(expected)}")
        for name, named in value.items():
            if not isinstance(named, Mapping):
                raise WrongReturnError(f"{said(named)} as the features for {name}")
            if not _has_names(named):
                raise WrongReturnError(f"features for {name} whose names aren't all texts")
            for tensor in named.values():
                if not isinstance(tensor, torch.Tensor) or not tensor.is_cpu:
                    raise WrongReturnError("features that are no tensors in host memory")
                if what := not_dense(tensor):
                    raise WrongReturnError(f"{what} among the features; they are dense tensors")
                if tensor.requires_grad:
                    raise WrongReturnError("features that require a gradient; detach() them")
        return value

    return check


def not_dense(tensor: torch.Tensor) -> str | None:
    """What a tensor is whose numbers don't lie in memory as they are; None: it is dense."""
    import torch

    if tensor.is_meta:
        return "a tensor without values"
    if tensor.is_quantized:
        return "a quantized tensor"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return "a sparse tensor"
    if tensor.is_conj() or tensor.is_neg():
        return "a tensor whose conjugation or sign isn't carried out"
    return None


# --- words --------------------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def said(value: Any) -> str:
    """A value in a message: plain ones as they are, anything else by its type."""
    if isinstance(value, _PLAIN):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"
