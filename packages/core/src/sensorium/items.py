"""What an item of media is before the engine: where it comes from, its shape, and its plan.

    MediaItem (sources) → Probe → Loaded → MediaPlan, Features → PreparedItem

``sensorium.types``, which has all names of this file too, goes on from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sensorium.errors import PluginError

if TYPE_CHECKING:
    import torch

#: Named tensors for one encoder, of any dtype; uint8 where that is lossless.
Features = Mapping[str, "torch.Tensor"]
#: In an item's features, in place of encoders' names: the rows, as {"rows": (tokens, width)}, of an
#: item that came as embeddings. No encoder's name begins with this sign.
PRECOMPUTED = "=precomputed"


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A URL as the caller wrote it; the fetch step turns it into a ``BytesSource``."""

    url: str


@dataclass(frozen=True, slots=True)
class BytesSource:
    """An encoded file's bytes, and the media type its sender claimed (never trusted)."""

    data: bytes
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class ValueSource:
    """A decoded value as the caller holds it (an array, a tensor, a library's object)."""

    value: Any


Source = UrlSource | BytesSource | ValueSource


@dataclass(frozen=True, slots=True)
class GivenEmbeds:
    """One item's pre-computed embeddings as the caller gave them, nothing checked yet.

    Attributes:
        rows: a tensor or array (tokens, width), or a serialised one in base64; None if only a
            uuid was given.
        fields: what came beside them, by name: tensors, arrays, numbers in lists, or base64.
    """

    rows: Any
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One item of one kind as the caller gave it, before anything was read.

    Attributes:
        kind: the kind's name, the key in ``multi_modal_data``.
        index: which item of its kind in the request, from 0.
        sources: what it is made of, in order; empty if only a uuid was given.
        uuid: the caller's stable name for its content.
        embeds: pre-computed embeddings instead of sources.
    """

    kind: str
    index: int
    sources: tuple[Source, ...] = ()
    uuid: str | None = None
    embeds: GivenEmbeds | None = None

    @property
    def has_data(self) -> bool:
        """Whether anything but a uuid was given."""
        if self.embeds is not None:
            return self.embeds.rows is not None
        return bool(self.sources)

    @property
    def label(self) -> str:
        """How error messages name it."""
        return f"{self.kind} {self.index}"


#: A plain value, or several: what a fact about an item may be.
Fact = str | int | float | bool | None | tuple[str | int | float | bool | None, ...]


@dataclass(frozen=True, slots=True)
class MediaShape:
    """All that a plan may depend on of an item's content; hashable.

    Attributes:
        size: its extents, in the order of ``MediaKind.size_names``.
        facts: what else the kind tells of an item (a sampling rate, a duration, times), by the
            names in ``MediaKind.fact_names``: plain values and tuples of them.
    """

    size: tuple[int, ...]
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.size, frozenset(self.facts.items())))


@dataclass(frozen=True, slots=True)
class Probe:
    """What a header says, before decoding.

    Attributes:
        shape: the item's, as ``Loaded`` will have it. Facts that only decoding tells may be
            missing here; the size may not differ.
        decoded_bytes: how much memory decoding will take.
    """

    shape: MediaShape
    decoded_bytes: int


@dataclass(frozen=True, slots=True)
class DerivedItem:
    """An item of another kind found inside one that was loaded.

    Its key is made of the parent's key, its kind and its name.
    """

    kind: str
    name: str
    loaded: Loaded


@dataclass(frozen=True, slots=True)
class Loaded:
    """A decoded item.

    Attributes:
        value: as its kind defines it; or a ``sensorium.plugins.MediaReader``, an opened item from
            which ``MediaAdapter.process`` pulls piece by piece and which core closes.
        shape: what its plan is made from.
        derived: items of other kinds found inside it.
    """

    value: Any
    shape: MediaShape
    derived: tuple[DerivedItem, ...] = ()


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """An item's tokens and layout in the prompt, known from its shape alone.

    Which item of the prompt it is (``PreparedItem.index``) isn't known to it, and so is no part of
    its ids: ``ModelFamily.compose`` adds what depends on the index.

    Attributes:
        num_tokens: embedding rows that its encoders return together (in the order in which
            the adapter names them, concatenated).
        token_ids: the tokens that stand for it in the prompt, placeholder ids included.
        is_embed: one byte a token, 1 where an embedding row replaces the token's own; None:
            everywhere. Its ones number ``num_tokens``.
        grid: the item's extent in the units of its position scheme, () if it has none.
        facts: whatever else the family's ``compose`` needs.
        num_pieces: pieces that its encoders make one by one (``Encoder.encode_piece``), of one row
            at least; 1: they make it whole.

    Raises:
        PluginError: ``num_tokens``, ``token_ids`` and ``is_embed`` that don't fit each other.
    """

    num_tokens: int
    token_ids: tuple[int, ...]
    is_embed: bytes | None = None
    grid: tuple[int, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    num_pieces: int = 1

    def __post_init__(self) -> None:
        if self.is_embed is not None and len(self.is_embed) != len(self.token_ids):
            raise PluginError(
                f"a plan has {len(self.token_ids)} token_ids and a mask of {len(self.is_embed)} "
                "bytes; the mask has one a token."
            )
        ones = len(self.token_ids) if self.is_embed is None else self.is_embed.count(1)
        if ones != self.num_tokens:
            where = "token_ids has" if self.is_embed is None else "the mask's ones are"
            raise PluginError(f"a plan has num_tokens = {self.num_tokens}, and {where} {ones}.")


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """An item ready for the engine.

    Attributes:
        kind, index: as in ``MediaItem``; a derived item has its parent's index.
        key: 32 bytes that name its content and every option that shapes its embeddings.
        plan: its tokens and layout.
        features: encoder name → that encoder's input; or ``PRECOMPUTED`` → the rows themselves;
            empty if only the embedding's key is known.
        parent: the key of the item it was derived from.
        uuid: the caller's name for it, for messages; a derived item has its parent's.
    """

    kind: str
    index: int
    key: bytes
    plan: MediaPlan
    features: Mapping[str, Features]
    parent: bytes | None = None
    uuid: str | None = None
