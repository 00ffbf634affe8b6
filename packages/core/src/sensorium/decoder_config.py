"""What the one decoder implementation needs to know of a checkpoint.

A family reads its checkpoint's ``config.json`` (any published spelling) into this; the
decoder is built from this alone and never sees the file. Every default is Llama's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding.

    Attributes:
        theta: base of the frequencies.
        sections: for positions on several axes, how many of the frequencies belong to each
            axis (Qwen2-VL's M-RoPE: time, height, width); () for one axis.
        scaling: the checkpoint's ``rope_scaling`` entry, {} if none.
        share: of a head's elements, the first so many are turned (``partial_rotary_factor``).
    """

    theta: float = 10000.0
    sections: tuple[int, ...] = ()
    scaling: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A causal decoder's shape.

    Attributes:
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated MLP.
        rope: of all layers, or of those without a window where there is a ``local_rope``.
        attention_bias: q, k and v have biases (Qwen2).
        output_bias: the attention's output projection has a bias.
        mlp_bias: the MLP's projections have biases.
        tied: the embedding matrix is the output matrix too.
        max_positions: longest context the checkpoint was made for.
        sliding_window: tokens each layer sees at most, one entry a layer; None: all.
        dtype: the checkpoint's own dtype by name ("bfloat16"), if it says.
        local_rope: of the layers with a window (Gemma 3); None: ``rope`` is all layers'.
        norms_before: attention and MLP read a norm of the residual stream.
        norms_behind: what they give is normed before it is added (OLMo 2; Gemma: both).
        norm_wide: a norm's product with its weight is in float32, rounded once (Gemma, OLMo 2).
        norm_offset: added to the weights of norms (Gemma's: 1).
        qk_norm: queries and keys are normed before they are turned, each head by itself (Qwen3,
            Gemma 3) or the whole projected width at once (OLMo 2).
        attention_scale: factor of the scores; None: head_size^-1/2.
        attention_soft_cap: scores s become cap · tanh(s / cap) (Gemma 2).
        logit_soft_cap: the same for logits.
        embed_scale: factor of token embeddings, rounded to the engine's dtype (Gemma).
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    norm_eps: float
    rope: RopeConfig
    max_positions: int
    activation: str = "silu"
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    sliding_window: tuple[int | None, ...] | None = None
    dtype: str | None = None
    local_rope: RopeConfig | None = None
    norms_before: bool = True
    norms_behind: bool = False
    norm_wide: bool = False
    norm_offset: float = 0.0
    qk_norm: Literal["head", "width"] | None = None
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    embed_scale: float | None = None
