"""A plugin that uses all that the interface's types carry.

A duet is two melodies: one item made of two sources, encoded by two encoders. Inside it lies
an item of another kind, its beat, which goes through the first of the two encoders as well. In
the family ``DuetForCausalLM`` the melodies' tokens alternate: the item has two spans that cover
the same tokens with disjoint masks. In ``Qwen2ForCausalLM`` everything stands in one piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from sensorium.media.digest import Digest
from sensorium.models.plugin import Qwen2Family
from sensorium.plugins import (
    EncoderContext,
    EncoderOutput,
    EncoderSpec,
    MediaAdapter,
    MediaKind,
    Placeholder,
    TokenizedPrompt,
    WeightMap,
    WeightRule,
    hookimpl,
    whole_span,
)
from sensorium.types import (
    Composition,
    DerivedItem,
    Features,
    Loaded,
    MediaItem,
    MediaPlan,
    MediaShape,
    MediaSpan,
    PreparedItem,
    Probe,
    Source,
    ValueSource,
)

api = 2
NUM_PITCHES = 4
ARCHITECTURES = ("DuetForCausalLM", "Qwen2ForCausalLM")


class Beat(MediaKind):
    """Found inside a duet, never given."""

    name = "beat"

    def split(self, value: Any) -> list[MediaItem]:
        raise NotImplementedError

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        raise NotImplementedError

    def probe(self, sources: Sequence[Source]) -> Probe:
        raise NotImplementedError

    def load(self, sources: Sequence[Source]) -> Loaded:
        raise NotImplementedError

    def digest(self, sources: Sequence[Source]) -> bytes:
        raise NotImplementedError


class Duet(MediaKind):
    """Two arrays of shape (notes, pitches)."""

    name = "duet"
    part_types = ("duet",)

    def split(self, value: Any) -> list[MediaItem]:
        pairs = value if isinstance(value, list) else [value]
        return [MediaItem("duet", i, tuple(map(ValueSource, pair))) for i, pair in enumerate(pairs)]

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        return MediaItem("duet", 0, tuple(map(ValueSource, value)))

    def probe(self, sources: Sequence[Source]) -> Probe:
        melodies = _melodies(sources)
        return Probe(MediaShape((len(melodies[0]),)), sum(melody.nbytes for melody in melodies))

    def load(self, sources: Sequence[Source]) -> Loaded:
        melodies = _melodies(sources)
        beat = Loaded(np.mean(melodies, axis=(0, 1))[None], MediaShape((1,)))
        return Loaded(
            melodies, MediaShape((len(melodies[0]),)), (DerivedItem("beat", "beat", beat),)
        )

    def digest(self, sources: Sequence[Source]) -> bytes:
        return Digest("duet").add(_melodies(sources)).digest()


def _melodies(sources: Sequence[Source]) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(s.value, np.float32) for s in sources if isinstance(s, ValueSource)]


class Ear(torch.nn.Module):
    """Notes (notes, pitches) → embeddings (notes, hidden)."""

    def __init__(self, context: EncoderContext) -> None:
        super().__init__()
        self.project = torch.nn.Linear(NUM_PITCHES, context.decoder.hidden_size)

    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        return [EncoderOutput(self.project(item["notes"])) for item in items]


def _weights_file(context: EncoderContext) -> str:
    return str(context.plugin_options["weights"])


def _ear(name: str) -> EncoderSpec:
    rules = (
        WeightRule(rf"{name}\.(weight|bias)", r"project.\1"),
        WeightRule(r"(left|right)\..*", None),  # the other's, in the same file
    )
    return EncoderSpec(name, Ear, WeightMap(rules), source=_weights_file)


class DuetAdapter(MediaAdapter):
    kind = "duet"
    architectures = ARCHITECTURES
    encoders = ("left", "right")
    own_encoders = (_ear("left"), _ear("right"))

    def placeholder(self, index: int) -> Placeholder:
        return Placeholder("<duet>", (), "<duet>")

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        return MediaPlan(2 * shape.size[0], (0,) * (2 * shape.size[0]))

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        notes = [{"notes": torch.from_numpy(melody)} for melody in loaded.value]
        return dict(zip(self.encoders, notes, strict=True))

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        return MediaShape((8,))


class BeatAdapter(MediaAdapter):
    kind = "beat"
    architectures = ARCHITECTURES
    encoders = ("left",)

    def placeholder(self, index: int) -> Placeholder:
        return Placeholder("<beat>", (), "<beat>")

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        return MediaPlan(1, (0,))

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        return {"left": {"notes": torch.from_numpy(loaded.value)}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        return MediaShape((1,))


class DuetFamily(Qwen2Family):
    """Qwen2, in which the melodies of a duet alternate, with the beat behind them."""

    architectures = ("DuetForCausalLM",)

    def compose(
        self,
        prompt: TokenizedPrompt,
        items: Sequence[PreparedItem],
        adapters: Mapping[str, MediaAdapter],
        context: Any,
    ) -> Composition:
        by_place = {(item.kind, item.index): i for i, item in enumerate(items)}
        token_ids: list[int] = []
        spans: list[MediaSpan] = []
        copied = 0
        for slot in prompt.slots:
            token_ids += prompt.token_ids[copied : slot.offset]
            copied = slot.offset + slot.length
            duet, beat = by_place["duet", slot.index], by_place["beat", slot.index]
            length = items[duet].plan.num_tokens
            span = partial(MediaSpan, item=duet, offset=len(token_ids), length=length)
            half = length // 2
            spans.append(span(item_slice=(0, half), is_embed=bytes([1, 0] * half)))
            spans.append(span(item_slice=(half, length), is_embed=bytes([0, 1] * half)))
            token_ids += items[duet].plan.token_ids
            spans.append(whole_span(beat, items[beat], len(token_ids), adapters["beat"]))
            token_ids += items[beat].plan.token_ids
        token_ids += prompt.token_ids[copied:]
        return Composition(tuple(token_ids), tuple(spans))


@hookimpl
def sensorium_media_kinds() -> list[type[MediaKind]]:
    return [Duet, Beat]


@hookimpl
def sensorium_media_adapters() -> list[type[MediaAdapter]]:
    return [DuetAdapter, BeatAdapter]


@hookimpl
def sensorium_model_families() -> list[Any]:
    return [DuetFamily()]
