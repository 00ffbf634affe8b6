"""Runs the encoders over items, and holds what they return against what was promised.

An encoder is a plugin's code: whatever it raises or returns, only the items concerned fail,
each with a sentence that names the encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sensorium.plugins import EncoderOutput
from sensorium.runner.encoder_cache import Embedding
from sensorium.types import EngineItem

logger = logging.getLogger("sensorium.runner")

#: Embedding rows that one call of an encoder makes at most, a larger item alone excepted.
MAX_ROWS = 4096


class Encoders:
    """All encoders of an engine.

    Args:
        modules: encoder name → module.
        of_kind: kind → names of its encoders, in the order of their rows.
        deep_levels: encoder name → levels of ``EncoderOutput.deep`` (0 for none).
        hidden_size, dtype: of every row.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        of_kind: Mapping[str, tuple[str, ...]],
        deep_levels: Mapping[str, int],
        hidden_size: int,
        dtype: torch.dtype,
    ) -> None:
        self._modules = modules
        self._of_kind = of_kind
        self._deep_levels = deep_levels
        self._hidden_size = hidden_size
        self._dtype = dtype

    def row_bytes(self) -> dict[str, int]:
        """Kind → bytes of one embedding row, all levels."""
        size = self._hidden_size * self._dtype.itemsize
        return {kind: size * (1 + self._levels(kind)) for kind in self._of_kind}

    def encode(self, items: Sequence[EngineItem]) -> list[Embedding | str]:
        """One embedding for each item, or the sentence that says why there is none."""
        outputs: list[dict[str, EncoderOutput | str]] = [{} for _ in items]
        for name in self._modules:
            wanted = [i for i, item in enumerate(items) if name in self._of_kind[item.kind]]
            for group in _groups(wanted, items):
                results = self._run(name, [items[i] for i in group])
                for i, result in zip(group, results, strict=True):
                    outputs[i][name] = result
        return [self._joined(item, of) for item, of in zip(items, outputs, strict=True)]

    def _run(self, name: str, items: Sequence[EngineItem]) -> list[EncoderOutput | str]:
        """One call for several items; if it fails, one for each, so that the culprit is found."""
        lacking = f"The encoder {name} was given no features for this item."
        if any(name not in item.features for item in items):
            if len(items) == 1:
                return [lacking]
            return [self._run(name, [item])[0] for item in items]
        try:
            results = list(self._modules[name]([item.features[name] for item in items]))
        except Exception as error:  # a plugin's code may raise anything
            if len(items) > 1:
                return [self._run(name, [item])[0] for item in items]
            logger.exception("the encoder %s failed", name)
            kind = items[0].kind
            return [f"The encoder {name} failed on a {kind} item ({type(error).__name__})."]
        if len(results) != len(items):
            sentence = f"The encoder {name} returned {len(results)} results for {len(items)} items."
            return [sentence] * len(items)
        return [self._checked(name, result) for result in results]

    def _checked(self, name: str, output: Any) -> EncoderOutput | str:
        """The output in the engine's dtype, or what is wrong with it."""
        if not isinstance(output, EncoderOutput) or not isinstance(output.embeds, Tensor):
            found = type(output).__name__
            return f"The encoder {name} returned a {found}; it must return EncoderOutput."
        rows, deep = output.embeds, output.deep
        if rows.dim() != 2 or rows.shape[1] != self._hidden_size:
            return (
                f"The encoder {name} returned embeddings of shape {_shape(rows)}; the model "
                f"takes tokens×{self._hidden_size}."
            )
        levels = self._deep_levels[name]
        expected = (levels, *rows.shape)
        if levels == 0 and deep is not None:
            return f"The encoder {name} returned deep embeddings and announced none."
        if levels and (deep is None or tuple(deep.shape) != expected):
            found = "none" if deep is None else f"those of shape {_shape(deep)}"
            return (
                f"The encoder {name} returned {found} as deep embeddings; it announced "
                f"{'×'.join(map(str, expected))}."
            )
        if not bool(rows.isfinite().all()) or (deep is not None and not bool(deep.isfinite().all())):
            return f"The encoder {name} returned embeddings that are not finite numbers."
        return EncoderOutput(rows.to(self._dtype), None if deep is None else deep.to(self._dtype))

    def _joined(self, item: EngineItem, outputs: Mapping[str, EncoderOutput | str]) -> Embedding | str:
        """The rows of an item's encoders, one behind another."""
        names = self._of_kind[item.kind]
        parts: list[EncoderOutput] = []
        for name in names:
            output = outputs[name]
            if isinstance(output, str):
                return output
            parts.append(output)
        rows = torch.cat([part.embeds for part in parts])
        if len(rows) != item.num_tokens:
            return (
                f"The encoder {' and '.join(names)} returned {len(rows)} embedding rows for a "
                f"{item.kind} item; its plan says {item.num_tokens}."
            )
        return Embedding(rows, self._joined_deep(item.kind, parts))

    def _joined_deep(self, kind: str, parts: Sequence[EncoderOutput]) -> Tensor | None:
        """All parts' deep rows; a part with fewer levels adds zeros behind them."""
        levels = self._levels(kind)
        if levels == 0:
            return None
        padded = []
        for part in parts:
            deep = part.embeds.new_zeros((levels, *part.embeds.shape))
            if part.deep is not None:
                deep[: len(part.deep)] = part.deep
            padded.append(deep)
        return torch.cat(padded, dim=1)

    def _levels(self, kind: str) -> int:
        return max((self._deep_levels[name] for name in self._of_kind[kind]), default=0)


def _groups(indices: Sequence[int], items: Sequence[EngineItem]) -> Iterator[list[int]]:
    """Cuts items into groups of at most ``MAX_ROWS`` rows, at least one item each."""
    group: list[int] = []
    num_rows = 0
    for i in indices:
        if group and num_rows + items[i].num_tokens > MAX_ROWS:
            yield group
            group, num_rows = [], 0
        group.append(i)
        num_rows += items[i].num_tokens
    if group:
        yield group


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "()"
