"""Attention inside each of several sequences that lie one behind another, as towers need it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sensorium.ops import extension
from sensorium.ops.paged import CUDA_HEAD_SIZES
from sensorium.ops.reference import varlen_reference


class Segments:
    """Where sequences begin and end among N tokens. Made once and used by every layer.

    Args:
        borders: 0 … N, ascending; equal neighbours are an empty sequence.
        device: where the tokens are.

    Attributes:
        borders: as given.
        on_device: (B + 1,) int32.
        max_len: tokens of the longest sequence.
    """

    __slots__ = ("borders", "max_len", "on_device")

    def __init__(self, borders: Sequence[int], device: torch.device) -> None:
        self.borders = tuple(borders)
        assert self.borders[0] == 0, "borders start with 0"
        lengths = [stop - start for start, stop in itertools.pairwise(self.borders)]
        assert min(lengths, default=0) >= 0, "borders ascend"
        self.max_len = max(lengths, default=0)
        borders_on_host = torch.tensor(self.borders, dtype=torch.int32)
        self.on_device = borders_on_host.to(device, non_blocking=True)


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments | Sequence[int],
    *,
    scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Attention inside each of several sequences; by the extension where it serves ``q``.

    Args:
        q: (N, num_heads, head_size).
        k, v: (N, num_kv_heads, head_size); num_heads is a multiple of num_kv_heads.
        segments: the sequences; borders 0 … N do for a single call.
        scale: factor of the scores; None: head_size^-1/2.
        causal: whether tokens see only those before them (and themselves).

    Returns:
        (N, num_heads, head_size) in ``q``'s dtype.
    """
    if not isinstance(segments, Segments):
        segments = Segments(segments, q.device)
    assert segments.borders[-1] == len(q), "the last border is the number of tokens"
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    size = q.shape[-1]
    width = _compiled_width(q)
    if width is None:
        return varlen_reference(q, k, v, segments.borders, scale=scale, causal=causal)
    extension.count(q, "varlen_attention")
    if width > size:
        # Zeros add nothing to a score, and give zeros, which are cut off again.
        q, k, v = (functional.pad(x, (0, width - size)) for x in (q, k, v))
    out: Tensor = torch.ops.sensorium.varlen_attention(
        q, k, v, segments.on_device, segments.max_len, scale, causal
    )
    return out[..., :size]


def _compiled_width(q: Tensor) -> int | None:
    """The head size that the extension computes ``q``'s heads in; None: it doesn't serve them."""
    if not extension.serves(q):
        return None
    if not q.is_cuda:
        return q.shape[-1]
    return min((size for size in CUDA_HEAD_SIZES if size >= q.shape[-1]), default=None)
