"""A made-up family of two kinds: a play brings its score, and the tokens of both interleave.

A play is an array of acts (acts, 6). Inside it lies an item of another kind, its score: two beats
an act (2 · acts, 3), one of the play's columns and its running sum. Each kind has an encoder of its
own. In a prompt an act's token is followed by its two beats':

    act beat beat  act beat beat  …      the play's span:   1 0 0 1 0 0 …
                                         the score's span:  0 1 1 0 1 1 …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sensorium.errors import MediaError
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
ARCHITECTURE = "PlayForCausalLM"
NUM_COLUMNS, BEATS_PER_ACT, NUM_BEAT_COLUMNS, MOST_ACTS = 6, 2, 3, 40


class ArrayKind(MediaKind):
    """Arrays (length, columns) of numbers; what both kinds share."""

    num_columns: int

    def split(self, value: Any) -> list[MediaItem]:
        values = value if isinstance(value, list) else [value]
        return [self._item(index, one) for index, one in enumerate(values)]

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        return self._item(0, value)

    def _item(self, index: int, value: Any) -> MediaItem:
        return MediaItem(self.name, index, () if value is None else (ValueSource(value),))

    def array(self, sources: Sequence[Source]) -> np.ndarray[Any, Any]:
        (source,) = sources
        value = source.value if isinstance(source, ValueSource) else None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.ndim != 2:
            raise MediaError(f"a {self.name} is a 2-D array of numbers.")
        if value.shape[1] != self.num_columns or not 0 < len(value) <= MOST_ACTS * BEATS_PER_ACT:
            raise MediaError(f"a {self.name} has {self.num_columns} columns and some rows.")
        if not np.isfinite(value).all():
            raise MediaError(f"a {self.name}'s numbers are finite.")
        return value

    def probe(self, sources: Sequence[Source]) -> Probe:
        array = self.array(sources)
        return Probe(MediaShape((len(array),)), 4 * array.size)

    def load(self, sources: Sequence[Source]) -> Loaded:
        array = self.array(sources).astype(np.float32)
        return Loaded(array, MediaShape((len(array),)))

    def digest(self, sources: Sequence[Source]) -> bytes:
        return Digest(self.name).add(self.array(sources)).digest()

    def blank(self, shape: MediaShape) -> Loaded:
        return Loaded(np.zeros((shape.size[0], self.num_columns), np.float32), shape)


class Score(ArrayKind):
    name = "score"
    size_names = ("beats",)
    num_columns = NUM_BEAT_COLUMNS


class Play(ArrayKind):
    name = "play"
    part_types = ("play",)
    size_names = ("acts",)
    num_columns = NUM_COLUMNS

    def load(self, sources: Sequence[Source]) -> Loaded:
        acts = super().load(sources).value
        beats = np.concatenate([acts[:, :3], acts[:, 3:].cumsum(axis=0)], axis=1)
        score_shape = MediaShape((BEATS_PER_ACT * len(acts),))
        score = Loaded(beats.reshape(-1, NUM_BEAT_COLUMNS).copy(), score_shape)
        return Loaded(acts, MediaShape((len(acts),)), (DerivedItem("score", "score", score),))


class Reader(torch.nn.Module):
    """Rows (length, columns) → embeddings (length, hidden); a batch is padded to one length."""

    def __init__(self, context: EncoderContext, num_columns: int) -> None:
        super().__init__()
        self.project = torch.nn.Linear(num_columns, context.decoder.hidden_size)

    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        rows = [item["rows"].float() for item in items]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        projected = torch.tanh(self.project(padded))
        return [EncoderOutput(projected[i, : len(own)]) for i, own in enumerate(rows)]


def _weights_file(context: EncoderContext) -> str:
    return str(context.plugin_options["weights"])


def _reader(name: str, num_columns: int) -> EncoderSpec:
    rules = (
        WeightRule(rf"{name}\.(weight|bias)", r"project.\1"),
        WeightRule(r"(acts|beats)\..*", None),  # the other's, in the same file
    )
    return EncoderSpec(
        name, lambda context: Reader(context, num_columns), WeightMap(rules), source=_weights_file
    )


class ArrayAdapter(MediaAdapter):
    """A token a row; with ``every`` only every so many rows count."""

    architectures = (ARCHITECTURE,)
    longest = MOST_ACTS

    def placeholder(self, index: int) -> Placeholder:
        return Placeholder(f"<{self.kind}>", (), f"<{self.kind}>")

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        (length,) = shape.size
        if not 0 < length <= self.longest:
            raise MediaError(f"it has {length} rows; 1 to {self.longest} are allowed.")
        return MediaPlan(length, (0,) * length)

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        gain = float(options.get("gain", 1.0))
        return {self.encoders[0]: {"rows": torch.from_numpy(gain * loaded.value)}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        return MediaShape((self.longest,))


class PlayAdapter(ArrayAdapter):
    kind = "play"
    encoders = ("acts",)
    own_encoders = (_reader("acts", NUM_COLUMNS),)
    option_names = frozenset({"gain"})

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"gain": float(kwargs.get("gain", 1.0))}


class ScoreAdapter(ArrayAdapter):
    kind = "score"
    encoders = ("beats",)
    own_encoders = (_reader("beats", NUM_BEAT_COLUMNS),)
    longest = MOST_ACTS * BEATS_PER_ACT


class PlayFamily(Qwen2Family):
    """Qwen2, in whose prompts a play and its score interleave."""

    architectures = (ARCHITECTURE,)

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
            play, score = by_place["play", slot.index], by_place["score", slot.index]
            acts = items[play].plan.num_tokens
            beats, length = acts * BEATS_PER_ACT, acts * (1 + BEATS_PER_ACT)
            mask = bytes([1, 0, 0]) * acts
            inverse = bytes([0, 1, 1]) * acts
            spans.append(MediaSpan(play, (0, acts), len(token_ids), length, mask))
            spans.append(MediaSpan(score, (0, beats), len(token_ids), length, inverse))
            token_ids += [0] * length
        token_ids += prompt.token_ids[copied:]
        return Composition(tuple(token_ids), tuple(spans))


@hookimpl
def sensorium_media_kinds() -> list[type[MediaKind]]:
    return [Play, Score]


@hookimpl
def sensorium_media_adapters() -> list[type[MediaAdapter]]:
    return [PlayAdapter, ScoreAdapter]


@hookimpl
def sensorium_model_families() -> list[Any]:
    return [PlayFamily()]
