"""``GuardedFamily``: a plugin's family, as core calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensorium.decoder_config import DecoderConfig
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.compose import TokenizedPrompt
from sensorium.plugins.context import ModelContext
from sensorium.plugins.encoder import WeightMap
from sensorium.plugins.family import ModelFamily
from sensorium.plugins.guard import checks
from sensorium.plugins.guard.composition import check_composition
from sensorium.plugins.guard.door import Door, WrongReturnError, inner_of
from sensorium.types import Composition, PreparedItem


class GuardedFamily(ModelFamily):
    """Wraps one instance.

    Attributes:
        inner: it.
        distribution: who brought it.
    """

    def __init__(self, inner: ModelFamily, distribution: str) -> None:
        self.inner = inner
        self.distribution = distribution
        for name in ModelFamily.__annotations__:
            setattr(self, name, getattr(inner, name))
        self.door = Door(distribution, f"{type(inner).__qualname__}.")

    def other_configs(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """As ``ModelFamily.other_configs``."""
        return self.door.begin("other_configs", self.inner.other_configs, config, check=_names)

    def complete_config(
        self, config: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """As ``ModelFamily.complete_config``."""
        return self.door.begin(
            "complete_config", self.inner.complete_config, config, others, check=_mapping
        )

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """As ``ModelFamily.decoder_config``."""
        return self.door.begin(
            "decoder_config", self.inner.decoder_config, config, check=checks.a(DecoderConfig)
        )

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """As ``ModelFamily.decoder_weights``."""
        return self.door.begin(
            "decoder_weights", self.inner.decoder_weights, config, check=checks.a(WeightMap)
        )

    def decoder_source(self, config: Mapping[str, Any]) -> str | None:
        """As ``ModelFamily.decoder_source``."""
        return self.door.begin(
            "decoder_source", self.inner.decoder_source, config, check=_text_or_none
        )

    def compose(
        self,
        prompt: TokenizedPrompt,
        items: Sequence[PreparedItem],
        adapters: Mapping[str, MediaAdapter],
        context: ModelContext,
    ) -> Composition:
        """As ``ModelFamily.compose``; the plugin gets the adapters themselves."""

        def check(value: Any) -> Composition:
            return check_composition(
                checks.a(Composition)(value),
                prompt,
                items,
                axes=self.position_axes,
                vocab_size=context.decoder.vocab_size,
            )

        own = {kind: inner_of(adapter) for kind, adapter in adapters.items()}
        return self.door.call(
            "compose", self.inner.compose, prompt, items, own, context, check=check
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WrongReturnError(f"{checks.said(value)} where a config belongs")
    return value


def _names(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(at, str) for at in value.values()):
        raise WrongReturnError(f"{checks.said(value)} where a mapping of names to places belongs")
    return value


def _text_or_none(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise WrongReturnError(f"{checks.said(value)} where a folder or a hub name belongs")
    return value
