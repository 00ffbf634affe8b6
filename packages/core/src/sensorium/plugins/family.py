"""``ModelFamily``: what a checkpoint's architecture name means.

A family reads the config, maps the weights' names, brings encoders, and composes prompts:
it decides which tokens stand for an item and at which positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sensorium.decoder_config import DecoderConfig
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.compose import TokenizedPrompt, walk_slots
from sensorium.plugins.context import ModelContext
from sensorium.plugins.encoder import EncoderSpec, WeightMap
from sensorium.types import Composition, PreparedItem


class ModelFamily(ABC):
    """One architecture, or several that differ in nothing a family decides.

    Class attributes:
        architectures: names in ``config.json``.
        task: "generate" or "embed".
        normalizes_embeddings: whether ``embed`` divides vectors by their length where the request
            doesn't say.
        position_axes: 1, or the axes of ``Composition.positions``.
        encoders: brought for all adapters to use.
        chat_template: used where checkpoint and tokenizer have none.
        chat_templates: name → template: others that suit checkpoints of the family. The option
            ``chat_template`` takes such a name, with or without ".jinja".
    """

    architectures: ClassVar[tuple[str, ...]]
    task: ClassVar[str] = "generate"
    normalizes_embeddings: ClassVar[bool] = True
    position_axes: ClassVar[int] = 1
    encoders: ClassVar[tuple[EncoderSpec, ...]] = ()
    chat_template: ClassVar[str | None] = None
    chat_templates: ClassVar[Mapping[str, str]] = {}

    def other_configs(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Other checkpoints whose ``config.json`` is needed: name → folder or hub name.

        For a checkpoint that only names the checkpoint of its decoder. Core finds the files and
        hands their contents to ``complete_config``; contexts carry them as ``other_configs``.

        Args:
            config: ``config.json`` with ``hf_overrides`` laid over it.
        """
        return {}

    def complete_config(
        self, config: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """``config.json`` as the family's other methods, its adapters and encoders get it.

        A family with ``other_configs`` puts them where a complete file would have them;
        ``hf_overrides`` are laid over the result once more.

        Args:
            config: as ``other_configs`` gets it.
            others: name → the contents of that checkpoint's ``config.json``.
        """
        return config

    @abstractmethod
    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """Reads the decoder's shape out of ``config.json``, in any published spelling.

        Raises:
            ConfigError: a value the decoder doesn't implement, by name.
        """

    @abstractmethod
    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """The table from names in the checkpoint to the decoder's parameters.

        The decoder's own names are ``embed_tokens.weight``, ``norm.weight``,
        ``lm_head.weight`` and ``layers.N.`` + ``input_layernorm.weight``,
        ``post_attention_layernorm.weight``, ``self_attn.{q,k,v,o}_proj.{weight,bias}``,
        ``mlp.{gate,up,down}_proj.{weight,bias}``; by its config also
        ``self_attn.{q,k}_norm.weight``, ``attention_output_norm.weight`` and
        ``mlp_output_norm.weight``. A file that holds projections as one matrix names
        ``self_attn.qkv_proj`` (q, k, v) and ``mlp.gate_up_proj`` (gate, up).
        """

    def decoder_source(self, config: Mapping[str, Any]) -> str | None:
        """Where the decoder's weights are; None: in the checkpoint itself."""
        return None

    def compose(
        self,
        prompt: TokenizedPrompt,
        items: Sequence[PreparedItem],
        adapters: Mapping[str, MediaAdapter],
        context: ModelContext,
    ) -> Composition:
        """Puts the items in the prompt.

        Default: each slot is replaced by its item's ``plan.token_ids``, and positions are
        0, 1, 2 …. A family with positions on several axes, or one that interleaves the
        streams of several items, overrides it.
        """
        return walk_slots(prompt, items, adapters)
