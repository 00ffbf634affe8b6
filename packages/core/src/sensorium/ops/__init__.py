"""The operations of a decoder, in plain torch and by the compiled extension where it serves.

The extension's own side is in ``extension.py``; ``reference.py`` defines what is correct.
"""

from sensorium.ops.attention import (
    AttentionBackend,
    AttentionBatch,
    AttentionLayout,
    AttentionSpec,
)
from sensorium.ops.choose import AttentionChoice, choose_attention
from sensorium.ops.elementwise import add_rms_norm, rms_norm, silu_mul
from sensorium.ops.grids import cubic_sample, cut_blocks
from sensorium.ops.linear import linear
from sensorium.ops.paged import PagedAttention
from sensorium.ops.reference import ReferenceAttention
from sensorium.ops.rope import Rope, apply_rope, apply_rope_
from sensorium.ops.rope_scaling import attention_factor, inverse_frequencies
from sensorium.ops.spectra import log_spectra
from sensorium.ops.varlen import Segments, varlen_attention

__all__ = [
    "AttentionBackend",
    "AttentionBatch",
    "AttentionChoice",
    "AttentionLayout",
    "AttentionSpec",
    "PagedAttention",
    "ReferenceAttention",
    "Rope",
    "Segments",
    "add_rms_norm",
    "apply_rope",
    "apply_rope_",
    "attention_factor",
    "choose_attention",
    "cubic_sample",
    "cut_blocks",
    "inverse_frequencies",
    "linear",
    "log_spectra",
    "rms_norm",
    "silu_mul",
    "varlen_attention",
]
