"""``Embeddings``: encodes items and keeps their embeddings, by key.

The scheduler decides which embeddings are dropped, and when.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sensorium.errors import Failure, PluginError, SensoriumError
from sensorium.plugins import EncoderOutput, MediaAdapter
from sensorium.plugins.guard import GuardedEncoder
from sensorium.runner.encode_timer import EncodeTimer
from sensorium.types import PRECOMPUTED, EngineItem, Features

logger = logging.getLogger("sensorium.runner")

#: Rows that one call of an encoder makes at most; an item with more is encoded alone.
MAX_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Encoded:
    """The result of encoding some items.

    Attributes:
        failures: key → a sentence, for items that could not be encoded.
        finite: key → (() bool on the device, a sentence): False if the embedding, or the pieces
            just added to it, are not all numbers. It is kept until the reader of ``finite`` drops
            it.
    """

    failures: dict[bytes, str] = field(default_factory=dict)
    finite: dict[bytes, tuple[Tensor, str]] = field(default_factory=dict)

    def add(self, other: Encoded) -> None:
        """Takes in what came of further items."""
        self.failures.update(other.failures)
        self.finite.update(other.finite)


class Embeddings:
    """The encoder cache.

    Args:
        encoders: encoder name → encoder.
        adapters: kind → the adapter, which names the kind's encoders in order.
        hidden_size, dtype, device: of the decoder.
    """

    def __init__(
        self,
        encoders: Mapping[str, GuardedEncoder],
        adapters: Mapping[str, MediaAdapter],
        *,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._encoders = encoders
        self._adapters = adapters
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._device = device
        self._kept: dict[bytes, EncoderOutput] = {}
        # key → encoder name → the pieces so far; or why there can be no more of them.
        self._parts: dict[bytes, dict[str, list[EncoderOutput]] | str] = {}
        self.timer = EncodeTimer(device)

    def __contains__(self, key: bytes) -> bool:
        return key in self._kept

    def __getitem__(self, key: bytes) -> EncoderOutput:
        return self._kept[key]

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forgets embeddings; unknown keys are ignored."""
        for key in keys:
            self._kept.pop(key, None)
            self._parts.pop(key, None)

    def encode(self, items: Sequence[EngineItem]) -> Encoded:
        """Encodes items, those of one encoder together, and keeps what comes out."""
        found = self._encode_whole([item for item in items if item.num_pieces == 1])
        for item in items:
            if item.num_pieces > 1:
                found.add(self.encode_pieces(item, 0, item.num_pieces))
        return found

    def encode_pieces(self, item: EngineItem, start: int, stop: int) -> Encoded:
        """Encodes the pieces start … stop-1 of an item, and keeps them; behind the last one the
        embedding is there.

        Where any piece fails, all are dropped, and every later one fails with the same sentence
        until the key is dropped.
        """
        if start == 0:
            self._parts[item.key] = {name: [] for name in self._encoders_of(item)}
        parts = self._parts.get(item.key, "The pieces before are gone.")
        if isinstance(parts, str):
            return Encoded({item.key: parts})
        with self.timer.measure([item]):
            error = self._add_pieces(item, parts, start, stop)
        if error is None and stop == item.num_pieces:
            error = self._join(item, parts)
        if error is not None:
            self._parts[item.key] = error
            return Encoded({item.key: error})
        new = [output for of in parts.values() for output in of[start:stop]]
        return Encoded({}, {item.key: self._all_finite(item, new)})

    def _add_pieces(
        self, item: EngineItem, parts: dict[str, list[EncoderOutput]], start: int, stop: int
    ) -> str | None:
        """Encodes pieces behind those in ``parts``; returns why it can't."""
        for name, own in parts.items():
            if len(own) != start:
                return "A piece of the item is missing."
            error_text = None
            try:
                features = item.features[name]
                for piece in range(start, stop):
                    output = self._encoders[name].encode_piece(features, piece, item.num_pieces)
                    own.append(self._placed_output(output))
            except SensoriumError as error:
                logger.warning("%s", error, exc_info=True)
                return Failure.of(error)
            except torch.OutOfMemoryError:
                error_text = self._no_room(name, item)
            if error_text is not None:  # outside of the handler, as in ``_run``
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                logger.warning("%s", error_text)
                return error_text
        return None

    def _join(self, item: EngineItem, parts: Mapping[str, list[EncoderOutput]]) -> str | None:
        """Makes the embedding of all its pieces; returns why it can't."""
        whole = _concatenated([output for own in parts.values() for output in own])
        if len(whole.embeds) != item.num_tokens:
            return self._wrong_rows(item, f"{len(whole.embeds)} rows in {item.num_pieces} pieces")
        self._kept[item.key] = whole
        del self._parts[item.key]
        return None

    def _encode_whole(self, items: Sequence[EngineItem]) -> Encoded:
        parts: dict[tuple[bytes, str], EncoderOutput] = {}
        failures: dict[bytes, str] = {}
        for name in self._encoder_names(items):
            own = [item for item in items if name in self._encoders_of(item)]
            own = [item for item in own if item.key not in failures]
            for group in _groups(own):
                with self.timer.measure(group):
                    results = self._run(name, group)
                for item, result in zip(group, results, strict=True):
                    if isinstance(result, str):
                        failures[item.key] = result
                    else:
                        parts[item.key, name] = result
        for item in items:
            if item.key in failures:
                continue
            if PRECOMPUTED in item.features:
                whole = self._precomputed(item)
            else:
                names = self._adapters[item.kind].encoders
                whole = _concatenated([parts[item.key, name] for name in names])
            if len(whole.embeds) != item.num_tokens:
                failures[item.key] = self._wrong_rows(item, f"{len(whole.embeds)} rows")
            else:
                self._kept[item.key] = whole
        made = [item for item in items if item.key not in failures]
        return Encoded(failures, {item.key: self._finite(item) for item in made})

    def _finite(self, item: EngineItem) -> tuple[Tensor, str]:
        return self._all_finite(item, [self._kept[item.key]])

    def _all_finite(self, item: EngineItem, outputs: Sequence[EncoderOutput]) -> tuple[Tensor, str]:
        flags = [output.embeds.isfinite().all() for output in outputs]
        flags += [output.deep.isfinite().all() for output in outputs if output.deep is not None]
        flag = flags[0] if len(flags) == 1 else torch.stack(flags).all()
        return flag, f"{self._source_of(item)} returned values that are not finite."

    def _wrong_rows(self, item: EngineItem, given: str) -> Failure:
        sentence = f"{self._source_of(item)} returned {given} where the plan says"
        return Failure(f"{sentence} {item.num_tokens}.", PluginError.__name__)

    def _source_of(self, item: EngineItem) -> str:
        """Where an item's rows came from, as the beginning of a sentence."""
        labels = [self._encoders[name].label for name in self._encoders_of(item)]
        return " and ".join(labels) or "The caller's embeddings"

    def _encoder_names(self, items: Sequence[EngineItem]) -> list[str]:
        """Each needed encoder once."""
        names: dict[str, None] = {}
        for item in items:
            names.update(dict.fromkeys(self._encoders_of(item)))
        return list(names)

    def _encoders_of(self, item: EngineItem) -> Sequence[str]:
        return () if PRECOMPUTED in item.features else self._adapters[item.kind].encoders

    def _precomputed(self, item: EngineItem) -> EncoderOutput:
        """An embedding that came with the request: each row, followed by those of its levels."""
        rows = self._placed(item.features[PRECOMPUTED]["rows"])
        if rows.shape[1] == self._hidden_size:
            return EncoderOutput(rows)
        whole = rows.view(len(rows), -1, self._hidden_size).transpose(0, 1)
        return EncoderOutput(whole[0].contiguous(), whole[1:].contiguous())

    def _run(self, name: str, items: Sequence[EngineItem]) -> list[EncoderOutput | str]:
        """Encodes together; if that fails, one by one, so that only the culprit fails.

        If the device runs out of memory, the batch is halved until it fits. A failed device
        (``torch.AcceleratorError``) is left to the engine.
        """
        try:
            return self._encode(name, [item.features[name] for item in items])
        except SensoriumError as error:
            if len(items) > 1:
                return [result for item in items for result in self._run(name, [item])]
            logger.warning("%s", error, exc_info=True)
            return [Failure.of(error)]
        except torch.OutOfMemoryError:
            error_text = self._no_room(name, items[0])
        # Outside the except block, whose exception keeps the failed call's tensors alive.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(items) == 1:
            logger.warning("%s", error_text)
            return [error_text]
        half = len(items) // 2
        return [*self._run(name, items[:half]), *self._run(name, items[half:])]

    def _no_room(self, name: str, item: EngineItem) -> str:
        free = ""
        if self._device.type == "cuda":
            num_free, num_all = torch.cuda.mem_get_info(self._device)
            free = f"; {num_free} of the device's {num_all} bytes are free"
        num_bytes = sum(value.nbytes for value in item.features[name].values())
        return (
            f"The device has too little memory for the encoder {name} and this item of "
            f"{item.num_tokens} tokens, whose features take {num_bytes} bytes{free}."
        )

    def _encode(self, name: str, features: Sequence[Features]) -> list[EncoderOutput | str]:
        outputs = self._encoders[name].encode([self._sent(item) for item in features])
        return [self._placed_output(output) for output in outputs]

    def _placed_output(self, output: EncoderOutput) -> EncoderOutput:
        deep = None if output.deep is None else self._placed(output.deep)
        return EncoderOutput(self._placed(output.embeds), deep)

    def _sent(self, features: Features) -> Features:
        """Copies features to the device without making the host wait."""
        if self._device.type != "cuda":
            return features
        return {
            name: (value if value.is_cuda or value.is_pinned() else value.pin_memory()).to(
                self._device, non_blocking=True
            )
            for name, value in features.items()
        }

    def _placed(self, values: Tensor) -> Tensor:
        # A view into a batch's output would keep the whole batch alive.
        return values.to(device=self._device, dtype=self._dtype).clone()


def _groups(items: Sequence[EngineItem]) -> Iterator[list[EngineItem]]:
    """Cuts items into groups of at most ``MAX_ROWS`` rows, so that a call's memory is bounded."""
    group: list[EngineItem] = []
    num_rows = 0
    for item in items:
        if group and num_rows + item.num_tokens > MAX_ROWS:
            yield group
            group, num_rows = [], 0
        group.append(item)
        num_rows += item.num_tokens
    if group:
        yield group


def _concatenated(parts: Sequence[EncoderOutput]) -> EncoderOutput:
    """The rows of an item's encoders behind one another; missing levels add nothing."""
    if len(parts) == 1:
        return parts[0]
    embeds = torch.cat([part.embeds for part in parts])
    levels = max((len(part.deep) for part in parts if part.deep is not None), default=0)
    if not levels:
        return EncoderOutput(embeds)
    deep = embeds.new_zeros(levels, *embeds.shape)
    row = 0
    for part in parts:
        if part.deep is not None:
            deep[: len(part.deep), row : row + len(part.embeds)] = part.deep
        row += len(part.embeds)
    return EncoderOutput(embeds, deep)
