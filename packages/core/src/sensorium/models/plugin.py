"""Core's own plugin: the text decoders, by the door that every plugin uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.decoder_config import DecoderConfig
from sensorium.models.families import decoder_rules, read_decoder_config
from sensorium.plugins import ModelFamily, WeightMap, hookimpl

api = 1


class TextFamily(ModelFamily):
    """A decoder alone, under Llama's names."""

    style: str

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """As ``ModelFamily.decoder_config``."""
        return read_decoder_config(config, self.style)

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """As ``ModelFamily.decoder_weights``."""
        return WeightMap(decoder_rules())


class LlamaFamily(TextFamily):
    """Llama 1 to 3.2, text only, and the many that share its shape."""

    architectures = ("LlamaForCausalLM",)
    style = "llama"


class Qwen2Family(TextFamily):
    """Qwen2 and Qwen2.5, text only."""

    architectures = ("Qwen2ForCausalLM",)
    style = "qwen2"


@hookimpl
def sensorium_model_families() -> list[ModelFamily]:
    """The text decoders."""
    return [LlamaFamily(), Qwen2Family()]
