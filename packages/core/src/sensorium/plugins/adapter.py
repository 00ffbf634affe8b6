"""``MediaAdapter``: how one model family takes one kind of media.

It may live in another distribution than the family and than the kind. It runs in the
frontend, on several threads at once, and never touches the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sensorium.errors import RequestError
from sensorium.plugins.context import ModelContext
from sensorium.plugins.encoder import EncoderSpec
from sensorium.types import Features, Loaded, MediaPlan, MediaShape

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Placeholder:
    """How an item is written in a prompt.

    Attributes:
        text: what a prompt's author writes, and what ``MediaPlan.token_ids`` replace.
        token_ids: the placeholder in a prompt given as ids; () if the vocabulary doesn't have it.
        in_context: what a chat part or a generic placeholder turns into; holds ``text``
            exactly once, with whatever the family wants around it.
        parts_text: the text before it and the text behind it are tokenized as texts of their own,
            each with the specials of a prompt (BOS, say), as some published processors do.
    """

    text: str
    token_ids: tuple[int, ...]
    in_context: str
    parts_text: bool = False


class MediaAdapter(ABC):
    """How one family takes one kind. One instance serves one engine.

    Only ``placeholder`` may depend on the item's place in the prompt; no other result may.

    Class attributes:
        kind: the kind's name.
        architectures: those it serves.
        version: part of every key; raise it when ``process`` changes its result.
        encoders: names of the encoders its features feed, in the order in which their
            embedding rows are concatenated.
        own_encoders: those of them that the adapter brings itself.
        generic_placeholder: spelling that stands for the family's own wherever none of the
            family's own is in a ``generate`` prompt ("<NAME>" by default).
        atomic_prefill: its span must be prefilled in one piece.
        non_causal: its span's tokens see each other in both directions.
        option_names: the keys of ``mm_processor_kwargs`` that it understands.
        embeds_fields: names of what must come beside pre-computed embeddings for them to be
            placed in a prompt; one integer tensor an item each.
    """

    kind: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    version: ClassVar[int] = 1
    encoders: ClassVar[tuple[str, ...]]
    own_encoders: ClassVar[tuple[EncoderSpec, ...]] = ()
    atomic_prefill: ClassVar[bool] = False
    non_causal: ClassVar[bool] = False
    option_names: ClassVar[frozenset[str]] = frozenset()
    embeds_fields: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def serves(cls, context: ModelContext) -> bool:
        """Whether it can serve this model of its architectures.

        False where it can't (it has no weights for this width, say): the model then takes no
        items of the kind, and everything else works.
        """
        return True

    def __init__(self, context: ModelContext) -> None:
        """Made only for models that the adapter serves.

        Raises:
            ConfigError: an entry of the checkpoint's files that it doesn't implement.
        """
        self.context = context

    @property
    def generic_placeholder(self) -> str:
        """How chat text spells an item of any family: the kind's name in angle brackets."""
        return f"<{self.kind}>"

    @abstractmethod
    def placeholder(self, index: int) -> Placeholder:
        """The placeholder of the item with this index (from 0) of its kind."""

    def template_part(self) -> Mapping[str, Any] | None:
        """The part that a chat template is shown in its place.

        None (the default): a text part with a sentinel, which becomes the placeholder after
        rendering. A mapping: the template itself writes the placeholder for such a part.
        """
        return None

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Checks ``mm_processor_kwargs`` and fills in the checkpoint's own values.

        Called with those of the given keys that are in ``option_names``, a request's laid over
        the engine's. The result is part of the key: plain values only.

        Raises:
            RequestError: a value out of range.
        """
        return dict(kwargs)

    @abstractmethod
    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """The plan of an item of this shape: its tokens, ids and layout.

        Raises:
            MediaError: a shape the family doesn't take, with the family's rule.
        """

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, torch.Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """The plan of an item that came as ``num_rows`` embedding rows.

        The default refuses them: a family must define how many rows an item may have.

        Args:
            fields: one CPU integer tensor for each of ``embeds_fields``, without a dimension
                for the items.

        Raises:
            RequestError: rows and fields that fit no item of this family, with the family's rule.
        """
        raise RequestError(
            f"{self.context.architecture} takes no pre-computed {self.kind} embeddings."
        )

    @abstractmethod
    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """Turns a decoded item into encoder name → named small tensors on the CPU, dense and
        without gradients.

        uint8 wherever that is lossless: the encoder rescales and normalises. Where the kind's value
        is a ``MediaReader``, the adapter pulls ``pieces()``; core closes the reader.

        Raises:
            MediaError: an item that the family doesn't take after all.
        """

    @abstractmethod
    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """The shape whose plan has the most tokens, for memory profiling.

        Args:
            options: as ``options`` returned them.
            io_options: ``MediaKind.options_key()``: how the kind reads its media.
        """
