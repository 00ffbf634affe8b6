"""What a plugin's objects are told about the model they serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sensorium.decoder_config import DecoderConfig

if TYPE_CHECKING:
    import torch


class TokenizerView(Protocol):
    """The part of the tokenizer that adapters and families may use."""

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of ``text``; special tokens written in it are recognised."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ``token_ids``."""

    def token_to_id(self, token: str) -> int | None:
        """The id of one token of the vocabulary, None if it isn't in it."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are, added tokens included."""


@dataclass(frozen=True, slots=True)
class ModelContext:
    """The checkpoint as a plugin sees it.

    Attributes:
        architecture: the name under which its family was found.
        config: ``config.json`` with ``hf_overrides`` laid over it.
        processor: ``preprocessor_config.json`` and the like, merged; {} if there is none.
        decoder: the decoder's shape.
        plugin_options: what the user gave for the plugin's distribution.
        other_configs: name → another checkpoint's ``config.json``, those that the family named in
            ``ModelFamily.other_configs``.
    """

    architecture: str
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    decoder: DecoderConfig
    tokenizer: TokenizerView
    plugin_options: Mapping[str, Any] = field(default_factory=dict)
    other_configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncoderContext:
    """What an encoder is built from. ``dtype`` and ``device`` are the engine's."""

    architecture: str
    config: Mapping[str, Any]
    processor: Mapping[str, Any]
    decoder: DecoderConfig
    dtype: torch.dtype
    device: torch.device
    plugin_options: Mapping[str, Any] = field(default_factory=dict)
    other_configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
