"""``Encoder``: turns features into embeddings on the device, and says where its weights are.

An encoder is registered under (architecture, name) by a family or by an adapter, and built
once however many adapters use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sensorium.plugins.context import EncoderContext
from sensorium.types import Features

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """One item's embedding: dense tensors of floats.

    Attributes:
        embeds: (tokens, hidden) in the engine's dtype.
        deep: (levels, tokens, hidden) to be added to the residual stream behind each of the
            first ``levels`` decoder layers (DeepStack); None: none.
    """

    embeds: torch.Tensor
    deep: torch.Tensor | None = None


class Encoder(Protocol):
    """A ``torch.nn.Module`` that takes several items at once.

    Items of different sizes come together; the encoder pads, packs or loops as it likes,
    and an item's result must not depend on its batch mates beyond rounding.

    An encoder of items whose ``MediaPlan.num_pieces`` is more than one has a second method,
    ``encode_piece(item: Features, piece: int, num_pieces: int) -> EncoderOutput``, which returns
    the rows of one piece. Those of all pieces, one behind another, are the item's rows. The pieces
    are asked for in order, in one step or in several. The features are the whole item's, in host
    memory: the encoder sends to the device what the piece needs of them. No piece may take more
    memory than the first, which alone is encoded to size memory.
    """

    def __call__(self, items: Sequence[Features]) -> Sequence[EncoderOutput]:
        """Encodes ``items`` (CPU or device tensors, as ``process`` made them)."""


@dataclass(frozen=True, slots=True)
class WeightRule:
    """One line of a table that maps weight names.

    Attributes:
        pattern: regular expression that must match the whole name in the file.
        target: our parameter's name, with ``\\1`` … for groups; None: known and not needed.
    """

    pattern: str
    target: str | None


@dataclass(frozen=True, slots=True)
class WeightMap:
    """Names in files → our parameters' names; the first rule that matches counts."""

    rules: tuple[WeightRule, ...]

    def claims(self, name: str) -> bool:
        """Whether any rule matches."""
        return any(re.fullmatch(rule.pattern, name) for rule in self.rules)

    def target(self, name: str) -> str | None:
        """Our name for it; None if it is known and not needed.

        Raises:
            KeyError: no rule claims it.
        """
        for rule in self.rules:
            if match := re.fullmatch(rule.pattern, name):
                return None if rule.target is None else match.expand(rule.target)
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How an encoder is built and filled.

    Attributes:
        name: unique within the architecture.
        build: makes the module on the meta device or on the CPU; weights come later.
        weights: the names it claims; or a function of ``config.json`` that returns them, where
            the config decides which of a checkpoint's layers are used at all.
        source: where they are: None for the checkpoint itself, else a function that returns
            a folder, a safetensors file or a hub name (from the config, from the plugin's
            options, or a file of the plugin's own distribution).
        deep_levels: how many levels ``EncoderOutput.deep`` will have.
    """

    name: str
    build: Callable[[EncoderContext], torch.nn.Module]
    weights: WeightMap | Callable[[Mapping[str, Any]], WeightMap]
    source: Callable[[EncoderContext], str] | None = None
    deep_levels: Callable[[Mapping[str, Any]], int] | None = None

    def weight_map(self, config: Mapping[str, Any]) -> WeightMap:
        """The names it claims in a checkpoint with this ``config.json``."""
        return self.weights if isinstance(self.weights, WeightMap) else self.weights(config)
