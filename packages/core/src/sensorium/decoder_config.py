"""What the one decoder implementation needs to know of a checkpoint.

A family reads its checkpoint's ``config.json`` (any published spelling) into this; the
decoder is built from this alone and never sees the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding.

    Attributes:
        theta: base of the frequencies.
        sections: for positions on several axes, how many of the head_size/2 frequencies
            belong to each axis (Qwen2-VL's M-RoPE: time, height, width); () for one axis.
        scaling: the checkpoint's ``rope_scaling`` entry, {} if none.
    """

    theta: float = 10000.0
    sections: tuple[int, ...] = ()
    scaling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A causal decoder's shape.

    Attributes:
        hidden_size: width of the residual stream.
        intermediate_size: width of the gated MLP.
        attention_bias: q, k and v have biases (Qwen2).
        output_bias: the attention's output projection has a bias.
        mlp_bias: the MLP's projections have biases.
        tied: the embedding matrix is the output matrix too.
        max_positions: longest context the checkpoint was made for.
        sliding_window: tokens each layer sees at most, one entry a layer; None: all.
        dtype: the checkpoint's own dtype by name ("bfloat16"), if it says.
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
