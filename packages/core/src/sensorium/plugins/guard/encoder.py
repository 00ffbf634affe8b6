"""A plugin's encoders, as core calls them: how they are built, and ``GuardedEncoder``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sensorium.errors import PluginError
from sensorium.plugins.encoder import EncoderOutput, EncoderSpec, WeightMap
from sensorium.plugins.guard import checks
from sensorium.plugins.guard.door import Door, WrongReturnError
from sensorium.types import Features

if TYPE_CHECKING:
    from torch import nn


def guarded_spec(spec: EncoderSpec, distribution: str) -> EncoderSpec:
    """The same encoder specification, whose functions raise only errors of ``sensorium.errors``."""
    door = Door(distribution, f"The encoder {spec.name}'s ")

    def through(name: str, function: Callable[..., Any], check: Callable[[Any], Any]) -> Any:
        return lambda *args: door.begin(name, function, *args, check=check)

    weights, source, levels = spec.weights, spec.source, spec.deep_levels
    return replace(
        spec,
        build=through("build", spec.build, _module),
        weights=weights
        if isinstance(weights, WeightMap)
        else through("weights", weights, checks.a(WeightMap)),
        source=source and through("source", source, checks.a(str)),
        deep_levels=levels and through("deep_levels", levels, _levels),
    )


def _module(value: Any) -> nn.Module:
    from torch import nn

    return checks.a(nn.Module)(value)


def _levels(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WrongReturnError(f"{checks.said(value)}; it is a number of levels")
    return value


class GuardedEncoder:
    """Wraps one built encoder.

    Attributes:
        inner: it.
        label: its name and its distribution's.

    Args:
        module: it.
        name, distribution: how messages name it.
        hidden_size: of the decoder.
        levels: how many ``EncoderOutput.deep`` must have.
    """

    def __init__(
        self, module: nn.Module, name: str, distribution: str, *, hidden_size: int, levels: int
    ) -> None:
        self.inner = module
        self._hidden_size = hidden_size
        self._levels = levels
        self.label = f"The encoder {name} of {distribution}"
        self._door = Door(distribution, f"The encoder {name}'s ", on_device=True)

    def encode(self, items: Sequence[Features]) -> Sequence[EncoderOutput]:
        """One output for each item.

        Raises:
            PluginError: the encoder failed, or returned something that the interface doesn't allow.
            torch.AcceleratorError, torch.OutOfMemoryError: as they are.
        """

        def check(value: Any) -> Sequence[EncoderOutput]:
            if not isinstance(value, (list, tuple)):
                raise WrongReturnError(f"{checks.said(value)} where a list of outputs belongs")
            if len(value) != len(items):
                raise WrongReturnError(f"{len(value)} outputs for {len(items)} items")
            for output in value:
                self._check(output)
            return value

        return self._door.call("forward", self.inner, items, check=check)

    def encode_piece(self, item: Features, piece: int, num_pieces: int) -> EncoderOutput:
        """The rows of one piece of an item.

        Raises:
            PluginError: the encoder has no pieces, failed, or returned what it may not.
            torch.AcceleratorError, torch.OutOfMemoryError: as they are.
        """

        def check(value: Any) -> EncoderOutput:
            self._check(value)
            return value  # type: ignore[no-any-return]

        method = getattr(self.inner, "encode_piece", None)
        if method is None:
            raise PluginError(
                f"{self.label} has no encode_piece, and an item's plan says num_pieces = "
                f"{num_pieces}: a mistake in that plugin or in the adapter's."
            )
        return self._door.call("encode_piece", method, item, piece, num_pieces, check=check)

    def _check(self, output: Any) -> None:
        import torch

        if not isinstance(output, EncoderOutput):
            raise WrongReturnError(f"{checks.said(output)} where an EncoderOutput belongs")
        embeds, deep = output.embeds, output.deep
        if not isinstance(embeds, torch.Tensor) or not isinstance(deep, torch.Tensor | None):
            raise WrongReturnError("an EncoderOutput whose fields are no tensors")
        for tensor in (embeds,) if deep is None else (embeds, deep):
            if (what := checks.not_dense(tensor)) or not tensor.is_floating_point():
                what = what or f"a tensor of {tensor.dtype}"
                raise WrongReturnError(f"{what} in an EncoderOutput; it is a dense one of floats")
        if embeds.dim() != 2 or embeds.shape[1] != self._hidden_size:
            raise WrongReturnError(
                f"an embedding of shape {tuple(embeds.shape)}; it must be "
                f"(tokens, {self._hidden_size})"
            )
        shape = (0,) if deep is None else tuple(deep.shape)
        if shape != ((self._levels, *embeds.shape) if self._levels else (0,)):
            raise WrongReturnError(
                f"levels of shape {shape}; it announces {self._levels}, each of shape "
                f"{tuple(embeds.shape)}"
            )
