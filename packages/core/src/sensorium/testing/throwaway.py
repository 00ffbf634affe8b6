"""A small throwaway model: its context for an adapter, and a checkpoint for an engine.

Text alone, in one of the shapes of core's own families, with a tokenizer that reads bytes. It has
no weights: an engine draws them (``load_format="dummy"``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sensorium.decoder_config import DecoderConfig, RopeConfig
from sensorium.plugins.context import ModelContext

NUM_BYTES = 256
_HEAD_SIZE = 16


class ByteTokenizer:
    """A token a byte of UTF-8, as the tokenizer of the throwaway checkpoint has it."""

    vocab_size = NUM_BYTES

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """The text's bytes."""
        return list(text.encode())

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of bytes; invalid ones are replaced."""
        return bytes(token_ids).decode(errors="replace")

    def token_to_id(self, token: str) -> int | None:
        """A byte's id, by the character of that number."""
        return ord(token) if len(token) == 1 and ord(token) < NUM_BYTES else None


def model_context(
    *,
    hidden_size: int = 64,
    architecture: str = "LlamaForCausalLM",
    config: Mapping[str, Any] | None = None,
    processor: Mapping[str, Any] | None = None,
    plugin_options: Mapping[str, Any] | None = None,
) -> ModelContext:
    """What an adapter is told of a small text model of this width.

    Args:
        hidden_size: a multiple of 32.
        config: laid over the small ``config.json``; processor: ``preprocessor_config.json``.
    """
    whole = {**_config(hidden_size, architecture), **(config or {})}
    decoder = DecoderConfig(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_layers=2,
        num_heads=hidden_size // _HEAD_SIZE,
        num_kv_heads=hidden_size // _HEAD_SIZE // 2,
        head_size=_HEAD_SIZE,
        vocab_size=NUM_BYTES,
        norm_eps=1e-6,
        rope=RopeConfig(),
        max_positions=2048,
    )
    return ModelContext(
        architecture=architecture,
        config=whole,
        processor=processor or {},
        decoder=decoder,
        tokenizer=ByteTokenizer(),
        plugin_options=plugin_options or {},
    )


def write_checkpoint(folder: Path, *, hidden_size: int, architecture: str) -> Path:
    """A checkpoint without weights: ``config.json`` and a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(hidden_size, architecture)))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _config(hidden_size: int, architecture: str) -> dict[str, Any]:
    assert hidden_size % (2 * _HEAD_SIZE) == 0, (
        f"hidden_size must be a multiple of {2 * _HEAD_SIZE}"
    )
    return {
        "architectures": [architecture],
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": hidden_size // _HEAD_SIZE,
        "num_key_value_heads": hidden_size // _HEAD_SIZE // 2,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "vocab_size": NUM_BYTES,
        "tie_word_embeddings": False,
    }
