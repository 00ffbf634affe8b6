"""The operations that decoders and towers are made of, in plain torch."""

from sensorium.ops.attention import AttentionBackend, AttentionBatch, AttentionSpec
from sensorium.ops.choose import choose_attention
from sensorium.ops.norms import rms_norm
from sensorium.ops.reference import ReferenceAttention, varlen_attention
from sensorium.ops.rope import Rope, apply_rope, inverse_frequencies

__all__ = [
    "AttentionBackend",
    "AttentionBatch",
    "AttentionSpec",
    "ReferenceAttention",
    "Rope",
    "apply_rope",
    "choose_attention",
    "inverse_frequencies",
    "rms_norm",
    "varlen_attention",
]
