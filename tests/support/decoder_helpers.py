"""A checkpoint's decoder without an engine around it, and its logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sensorium.checkpoint import open_checkpoint
from sensorium.config import EngineConfig
from sensorium.models.decoder import Decoder, DeepRows
from sensorium.models.load import load_model
from sensorium.models.plugin import sensorium_model_families
from sensorium.ops import AttentionBatch
from sensorium.plugins import ModelFamily

#: Tokens of a page; what CUDA's kernels are compiled for.
PAGE_SIZE = 16


def family_of(architecture: str) -> ModelFamily:
    """Core's family of an architecture."""
    families = {name: f for f in sensorium_model_families() for name in f.architectures}
    return families[architecture]


def loaded(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    *,
    max_model_len: int | None = None,
    **fields: Any,
) -> Decoder:
    """The decoder of a checkpoint; ``fields`` of its config are replaced before it is built."""
    checkpoint = open_checkpoint(EngineConfig.from_options(model=folder))
    family = family_of(checkpoint.architecture)
    config = replace(family.decoder_config(checkpoint.config), **fields)
    decoder = Decoder(config, dtype=dtype, device=torch.device(device), max_model_len=max_model_len)
    load_model(checkpoint, family, decoder, {}, {})
    return decoder


def one_sequence(num_tokens: int, device: str = "cpu") -> AttentionBatch:
    """A whole prompt on pages that lie one behind another."""
    num_pages = -(-num_tokens // PAGE_SIZE)
    return AttentionBatch(
        query_start=torch.tensor([0, num_tokens], dtype=torch.int32, device=device),
        seq_lens=torch.tensor([num_tokens], dtype=torch.int32, device=device),
        page_table=torch.arange(num_pages, dtype=torch.int32, device=device)[None],
        slot_mapping=torch.arange(num_tokens, device=device),
        max_query_len=num_tokens,
        max_seq_len=num_tokens,
        lengths=((num_tokens, num_tokens),),
    )


@torch.inference_mode()
def logits_of(decoder: Decoder, token_ids: Tensor, deep: DeepRows | None = None) -> Tensor:
    """(N,) ids → (N, vocab_size): a prompt's logits at each of its tokens."""
    config, n, device = decoder.config, len(token_ids), token_ids.device
    dims = (-(-n // PAGE_SIZE), PAGE_SIZE, config.num_kv_heads, config.head_size)
    cache = torch.zeros(config.num_layers, 2, *dims, dtype=decoder.dtype, device=device)
    positions = torch.arange(n, device=device)[None]
    batch = one_sequence(n, str(device))
    hidden = decoder(decoder.embed(token_ids), positions, cache, batch, deep)
    return decoder.logits(hidden)
