"""Stand-ins for the three flash-attn packages, as their documentation describes them.

Each function has the real one's parameters, checks shapes, dtypes and strides as the real one
does, and computes softmax attention from what it was given, on whatever device that lies.
"""

from __future__ import annotations

import importlib
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from sensorium.ops import flash


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_start: Tensor,
    key_lens: Tensor,
    table: Tensor,
    *,
    scale: float,
    window: tuple[int | None, int | None],
    soft_cap: float,
) -> Tensor:
    """Attention over pages in float64: the mask is aligned to its bottom right corner.

    Args:
        window: how many keys a query sees to the left and right of its own; None: all.
    """
    out = torch.zeros(q.shape, dtype=torch.float64)
    group = q.shape[1] // k.shape[2]
    for b, num_keys in enumerate(key_lens.tolist()):
        rows = slice(int(query_start[b]), int(query_start[b + 1]))
        num_queries = rows.stop - rows.start
        keys, values = (
            x[table[b].long()].flatten(0, 1)[:num_keys].double().repeat_interleave(group, dim=1)
            for x in (k, v)
        )
        scores = torch.einsum("ihd,jhd->hij", q[rows].double(), keys) * scale
        if soft_cap > 0:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        distance = torch.arange(num_keys) - torch.arange(num_queries)[:, None]
        distance -= num_keys - num_queries
        left, right = window
        seen = torch.ones_like(distance, dtype=torch.bool)
        if left is not None:
            seen &= distance >= -left
        if right is not None:
            seen &= distance <= right
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out[rows] = torch.einsum("hij,jhd->ihd", weights, values)
    return out.to(q.dtype)


def check(
    q: Tensor, k: Tensor, v: Tensor, query_start: Tensor, table: Tensor, *, most: int
) -> None:
    """What all three ask of queries, pages and their indices."""
    assert q.dim() == 3
    assert q.dtype in (torch.float16, torch.bfloat16)
    assert q.dtype == k.dtype == v.dtype
    assert k.dim() == 4, "(pages, page size, key heads, head size)"
    assert k.shape == v.shape
    assert q.shape[2] == k.shape[3]
    assert q.shape[2] % 8 == 0
    assert q.shape[1] % k.shape[2] == 0
    assert all(x.stride(-1) == 1 for x in (q, k, v, query_start, table))
    assert query_start.dtype == table.dtype == torch.int32
    assert len(table) == len(query_start) - 1
    assert type(most) is int
    assert most == int(query_start.diff().max())
    assert int(query_start[-1]) == len(q)


def both_sides(window: tuple[int, int], causal: bool) -> tuple[int | None, int | None]:
    """The window of versions 2 and 3, where -1 is no bound; causal: nothing to the right."""
    left, right = (None if side == -1 else side for side in window)
    return left, 0 if causal else right


def version_2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor:
    """``flash_attn.flash_attn_varlen_func``."""
    assert block_table is not None
    check(q, k, v, cu_seqlens_q, block_table, most=max_seqlen_q)
    assert k.shape[1] % 256 == 0, "page_block_size must be a multiple of 256"
    assert cu_seqlens_k.dtype == torch.int32
    assert cu_seqlens_k.shape == cu_seqlens_q.shape
    assert int(cu_seqlens_k[0]) == 0
    key_lens = cu_seqlens_k.diff()
    assert type(max_seqlen_k) is int
    assert max_seqlen_k == int(key_lens.max())
    assert softmax_scale is not None
    return attend(
        q,
        k,
        v,
        cu_seqlens_q,
        key_lens,
        block_table,
        scale=softmax_scale,
        window=both_sides(window_size, causal),
        soft_cap=softcap,
    )


def version_3(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    qv: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    page_table: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k_new: Tensor | None = None,
    max_seqlen_q: int | None = None,
    rotary_seqlens: Tensor | None = None,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    scheduler_metadata: Tensor | None = None,
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor:
    """``flash_attn_interface.flash_attn_with_kvcache``."""
    assert k is None
    assert v is None
    assert page_table is not None
    assert cu_seqlens_q is not None
    assert max_seqlen_q is not None, "needed with cu_seqlens_q"
    check(q, k_cache, v_cache, cu_seqlens_q, page_table, most=max_seqlen_q)
    assert isinstance(cache_seqlens, Tensor)
    assert cache_seqlens.dtype == torch.int32
    assert cache_seqlens.shape == (len(page_table),)
    assert softmax_scale is not None
    return attend(
        q,
        k_cache,
        v_cache,
        cu_seqlens_q,
        cache_seqlens,
        page_table,
        scale=softmax_scale,
        window=both_sides(window_size, causal),
        soft_cap=softcap,
    )


def version_4(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    page_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int | None, int | None] = (None, None),
    learnable_sink: Tensor | None = None,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
) -> tuple[Tensor, None]:
    """``flash_attn.cute.flash_attn_varlen_func``: the result comes with its log-sum-exp."""
    assert page_table is not None
    assert cu_seqlens_k is None, "page_table is not supported with cu_seqlens_k"
    assert cu_seqlens_q is not None
    assert max_seqlen_q is not None
    check(q, k, v, cu_seqlens_q, page_table, most=max_seqlen_q)
    assert q.shape[2] in (64, 96, 128)
    assert seqused_k is not None
    assert seqused_k.dtype == torch.int32
    assert seqused_k.shape == (len(page_table),)
    assert seqused_k.stride(0) == 1
    assert type(max_seqlen_k) is int
    assert max_seqlen_k == int(seqused_k.max())
    assert softmax_scale is not None
    left, right = window_size
    assert left is None or left >= 0, "no bound is None, not -1"
    out = attend(
        q,
        k,
        v,
        cu_seqlens_q,
        seqused_k,
        page_table,
        scale=softmax_scale,
        window=(left, 0 if causal else right),
        soft_cap=softcap,
    )
    return out, None


#: Version → module, function, and a device that it has kernels for.
PACKAGES: dict[int, tuple[str, Any, tuple[int, int]]] = {
    2: ("flash_attn", version_2, (8, 0)),
    3: ("flash_attn_interface", version_3, (9, 0)),
    4: ("flash_attn.cute", version_4, (10, 0)),
}
#: What the real module calls its function.
NAMES = {module: name for _, module, name, _ in flash.VERSIONS}


def install(monkeypatch: pytest.MonkeyPatch, modules: dict[str, Any]) -> None:
    """Puts modules with these functions in place of whatever is installed.

    Args:
        modules: module → its function, or the exception that importing it raises.
    """

    real = importlib.import_module

    def find(name: str, package: str | None = None) -> Any:
        if name not in NAMES:
            return real(name, package)
        what = modules.get(name, ModuleNotFoundError(name, name=name))
        if isinstance(what, Exception):
            raise what
        return types.SimpleNamespace(**{NAMES[name]: what})

    monkeypatch.setattr(importlib, "import_module", find)
    flash.installed.cache_clear()
    monkeypatch.setattr(flash, "installed", flash.installed.__wrapped__)
