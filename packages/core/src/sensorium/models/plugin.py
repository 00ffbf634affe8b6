"""Core's own plugin: the text decoders, through the interface that every plugin uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.decoder_config import DecoderConfig
from sensorium.models.families import decoder_rules, read_decoder_config
from sensorium.plugins import ModelFamily, WeightMap, hookimpl

api = 2


class TextFamily(ModelFamily):
    """A decoder alone, as its style's table reads and names it.

    Files of the bare model, whose names lack the prefix ``model.``, are read as well.
    """

    style: str

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """As ``ModelFamily.decoder_config``."""
        return read_decoder_config(config, self.style)

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """As ``ModelFamily.decoder_weights``."""
        return WeightMap(decoder_rules(bodies=("model.", ""), style=self.style))


class LlamaFamily(TextFamily):
    """Llama 1 to 3.2, text only, and the many that share its shape."""

    architectures = ("LlamaForCausalLM",)
    style = "llama"


class MistralFamily(TextFamily):
    """Mistral 7B and its relatives: a window in every layer, or none."""

    architectures = ("MistralForCausalLM",)
    style = "mistral"


class Qwen2Family(TextFamily):
    """Qwen2 and Qwen2.5, text only."""

    architectures = ("Qwen2ForCausalLM",)
    style = "qwen2"


class Qwen3Family(TextFamily):
    """Qwen3's dense models."""

    architectures = ("Qwen3ForCausalLM",)
    style = "qwen3"


class Phi3Family(TextFamily):
    """Phi-3, Phi-3.5 mini and Phi-4, text only."""

    architectures = ("Phi3ForCausalLM",)
    style = "phi3"


class Gemma2Family(TextFamily):
    """Gemma 2."""

    architectures = ("Gemma2ForCausalLM",)
    style = "gemma2"


class Gemma3Family(TextFamily):
    """Gemma 3, text only."""

    architectures = ("Gemma3ForCausalLM",)
    style = "gemma3"


class Olmo2Family(TextFamily):
    """OLMo 2."""

    architectures = ("Olmo2ForCausalLM",)
    style = "olmo2"


class Embedder(TextFamily):
    """A decoder without an output matrix, as embedding checkpoints are published."""

    task = "embed"


class LlamaEmbedder(Embedder, LlamaFamily):
    """Embedding checkpoints of Llama's kind."""

    architectures = ("LlamaModel",)


class MistralEmbedder(Embedder, MistralFamily):
    """Embedding checkpoints of Mistral's kind."""

    architectures = ("MistralModel",)


class Qwen2Embedder(Embedder, Qwen2Family):
    """Embedding checkpoints of Qwen2's kind."""

    architectures = ("Qwen2Model",)


class Qwen3Embedder(Embedder, Qwen3Family):
    """Embedding checkpoints of Qwen3's kind."""

    architectures = ("Qwen3Model",)


class Phi3Embedder(Embedder, Phi3Family):
    """Embedding checkpoints of Phi3's kind."""

    architectures = ("Phi3Model",)


class Gemma2Embedder(Embedder, Gemma2Family):
    """Embedding checkpoints of Gemma2's kind."""

    architectures = ("Gemma2Model",)


class Gemma3Embedder(Embedder, Gemma3Family):
    """Embedding checkpoints of Gemma3's kind."""

    architectures = ("Gemma3TextModel",)


class Olmo2Embedder(Embedder, Olmo2Family):
    """Embedding checkpoints of Olmo2's kind."""

    architectures = ("Olmo2Model",)


@hookimpl
def sensorium_model_families() -> list[ModelFamily]:
    """The text decoders, and each as an embedding checkpoint."""
    return [
        LlamaFamily(),
        MistralFamily(),
        Qwen2Family(),
        Qwen3Family(),
        Phi3Family(),
        Gemma2Family(),
        Gemma3Family(),
        Olmo2Family(),
        LlamaEmbedder(),
        MistralEmbedder(),
        Qwen2Embedder(),
        Qwen3Embedder(),
        Phi3Embedder(),
        Gemma2Embedder(),
        Gemma3Embedder(),
        Olmo2Embedder(),
    ]
