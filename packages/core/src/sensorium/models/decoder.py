"""``Decoder``: the causal decoder of Llama and of every family that a table describes.

Each difference is a field of ``DecoderConfig``, whose defaults make Llama.

It computes a flat run of tokens of many sequences at once. It knows nothing of requests,
media or sampling: attention's ``AttentionBatch`` says which token belongs to which sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sensorium.decoder_config import DecoderConfig
from sensorium.models.layers import Embedding, FusedLinear, GatedMLP, Linear, NoNorm, RMSNorm
from sensorium.ops import (
    AttentionBackend,
    AttentionBatch,
    AttentionLayout,
    AttentionSpec,
    Rope,
    choose_attention,
    linear,
)

#: (cos, sin) of most layers, and of those with a window.
RopeTables = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class DeepRows:
    """What is added to the residual stream behind the first layers (DeepStack, Meng et al. 2024).

    Attributes:
        rows: (M,) int64: which tokens, each once.
        values: (levels, M, hidden): values[i] is added behind layer i.
    """

    rows: Tensor
    values: Tensor


def attention_specs(config: DecoderConfig, *, non_causal: bool) -> list[AttentionSpec]:
    """What each layer's attention is."""
    windows = config.sliding_window or (None,) * config.num_layers
    scale = config.head_size**-0.5 if config.attention_scale is None else config.attention_scale
    cap = config.attention_soft_cap
    return [AttentionSpec(scale, window, cap, non_causal) for window in windows]


def make_norm(
    config: DecoderConfig, size: int, dtype: torch.dtype, device: torch.device
) -> RMSNorm:
    """A norm of the config's kind."""
    wide, offset = config.norm_wide, config.norm_offset
    return RMSNorm(size, config.norm_eps, dtype=dtype, device=device, wide=wide, offset=offset)


class Decoder(nn.Module):
    """Embedding, layers, norm and output matrix; parameters empty until they are loaded.

    Args:
        page_size: tokens of a page of the KV cache.
        max_model_len: tokens of one sequence at most, by which some rope scalings choose their
            frequencies; None: as many as the checkpoint was made for.
        non_causal: whether batches may hold non-causal ranges.

    Raises:
        ConfigError: ``config`` needs something that isn't built, or that the attention backend
            named by the environment lacks.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        page_size: int = 16,
        max_model_len: int | None = None,
        non_causal: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        specs = attention_specs(config, non_causal=non_causal)
        layout = AttentionLayout(device, dtype, config.head_size, page_size)
        self.attention = choose_attention(dict.fromkeys(specs), layout)
        longest = config.max_positions if max_model_len is None else max_model_len
        self.rope = Rope(config.rope, config.head_size, device, longest)
        self.local_rope: Rope | None = None
        if config.local_rope is not None:
            self.local_rope = Rope(config.local_rope, config.head_size, device, longest)
        # Rounded as the embeddings are: √3072 is 55.5 in bfloat16.
        scale = config.embed_scale
        self.embed_scale = None if scale is None else float(torch.tensor(scale, dtype=dtype))
        vocab_size, size = config.vocab_size, config.hidden_size
        self.embed_tokens = Embedding(vocab_size, size, dtype=dtype, device=device)
        self.layers = nn.ModuleList(
            Layer(config, spec, self.attention.of[spec], dtype, device) for spec in specs
        )
        self.norm = make_norm(config, size, dtype, device)
        self.lm_head: Linear | None = None
        if not config.tied:
            self.lm_head = Linear(size, vocab_size, bias=False, dtype=dtype, device=device)

    def embed(self, token_ids: Tensor) -> Tensor:
        """(N,) int64 → (N, hidden)."""
        hidden: Tensor = self.embed_tokens(token_ids)
        return hidden if self.embed_scale is None else hidden * self.embed_scale

    def forward(
        self,
        hidden: Tensor,
        positions: Tensor,
        kv_cache: Tensor,
        batch: AttentionBatch,
        deep: DeepRows | None = None,
    ) -> Tensor:
        """One pass over N tokens of all sequences of ``batch``.

        Args:
            hidden: (N, hidden) token or media embeddings; it may be changed in place.
            positions: (axes, N) int64.
            kv_cache: (num_layers, 2, num_pages, page_size, num_kv_heads, head_size); the
                tokens' keys and values are written into it.

        Returns:
            (N, hidden): the last layer's output, normalised.
        """
        return self.through_layers(hidden, self.rope_tables(positions), kv_cache, batch, deep)

    def rope_tables(self, positions: Tensor) -> RopeTables:
        """Cosines and sines, (N, turned/2) each: of most layers, and of those with a window."""
        tables = self.rope.tables(positions, self.dtype)
        if self.local_rope is None:
            return tables, tables
        return tables, self.local_rope.tables(positions, self.dtype)

    def through_layers(
        self,
        hidden: Tensor,
        tables: RopeTables,
        kv_cache: Tensor,
        batch: AttentionBatch,
        deep: DeepRows | None = None,
    ) -> Tensor:
        """``forward`` with the positions' ``rope_tables``."""
        residual: Tensor | None = None
        for i, layer in enumerate(self.layers):
            cos, sin = tables[0] if layer.window is None else tables[1]
            hidden, residual = layer(hidden, residual, cos, sin, kv_cache[i], batch)
            if deep is not None and i < len(deep.values):
                hidden = hidden.index_add(0, deep.rows, deep.values[i])
        normed, _ = self.norm.add(hidden, residual)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """(S, hidden) of ``forward`` → (S, vocab_size) float32."""
        head = self.embed_tokens if self.lm_head is None else self.lm_head
        logits = linear(hidden, head.weight).float()
        cap = self.config.logit_soft_cap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


class Layer(nn.Module):
    """Attention and MLP, each behind a norm and added to what went in.

    Names are Llama's, where ``post_attention_layernorm`` is the norm before the MLP. Where a
    config has norms behind attention and MLP, these are the ``output_norm`` of each.
    """

    def __init__(
        self,
        config: DecoderConfig,
        spec: AttentionSpec,
        attention: AttentionBackend,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        size = config.hidden_size
        self.window = spec.window

        def norm_or_none(there: bool) -> RMSNorm | NoNorm:
            return make_norm(config, size, dtype, device) if there else NoNorm()

        self.input_layernorm = norm_or_none(config.norms_before)
        self.self_attn = SelfAttention(config, spec, attention, dtype, device)
        self.attention_output_norm = norm_or_none(config.norms_behind)
        self.post_attention_layernorm = norm_or_none(config.norms_before)
        self.mlp = GatedMLP(
            size,
            config.intermediate_size,
            config.activation,
            bias=config.mlp_bias,
            dtype=dtype,
            device=device,
        )
        self.mlp_output_norm = norm_or_none(config.norms_behind)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        kv: Tensor,
        batch: AttentionBatch,
    ) -> tuple[Tensor, Tensor]:
        """Takes and returns a layer's output as two (N, hidden) whose sum it is.

        The sum is left to the next norm, which adds and norms in one pass. ``residual`` is None
        before the first layer.
        """
        x, residual = self.input_layernorm.add(x, residual)
        x = self.attention_output_norm(self.self_attn(x, cos, sin, kv, batch))
        x, residual = self.post_attention_layernorm.add(x, residual)
        return self.mlp_output_norm(self.mlp(x)), residual


class SelfAttention(nn.Module):
    """Projections around the attention backend."""

    def __init__(
        self,
        config: DecoderConfig,
        spec: AttentionSpec,
        attention: AttentionBackend,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self._spec = spec
        self._attention = attention
        self._head_size = config.head_size
        query_size = config.num_heads * config.head_size
        kv_size = config.num_kv_heads * config.head_size
        self.qkv_proj = FusedLinear(
            config.hidden_size,
            {"q_proj": query_size, "k_proj": kv_size, "v_proj": kv_size},
            bias=config.attention_bias,
            dtype=dtype,
            device=device,
        )
        self.o_proj = Linear(
            query_size, config.hidden_size, bias=config.output_bias, dtype=dtype, device=device
        )
        self._qk_norm = config.qk_norm
        if config.qk_norm is not None:
            each = config.head_size if config.qk_norm == "head" else None
            self.q_norm = make_norm(config, each or query_size, dtype, device)
            self.k_norm = make_norm(config, each or kv_size, dtype, device)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, kv: Tensor, batch: AttentionBatch
    ) -> Tensor:
        """(N, hidden) → (N, hidden); stores the new keys and values first."""
        q, k, v = self.qkv_proj(x)
        if self._qk_norm == "width":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, (-1, self._head_size)) for part in (q, k, v))
        if self._qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q = self._attention.rope_store_kv(q, k, v, cos, sin, kv, batch.slot_mapping)
        out = self._attention.paged_attention(q, kv, batch, self._spec)
        return self.o_proj(out.flatten(1))  # type: ignore[no-any-return]
