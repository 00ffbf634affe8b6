"""Attention by the flash-attn package, where one of its versions is installed.

Three packages with three interfaces, written against their documentation:

    4   flash_attn.cute         varlen function with a page table (Blackwell; no pages on Hopper)
    3   flash_attn_interface    KV-cache function with a page table of any page size (Hopper)
    2   flash_attn              varlen function with a block table (pages of 256·n tokens)

A package that is installed but can't be imported, or whose function lacks an argument that is
needed here (each got paging late), is skipped with a reason.

None of them knows non-causal ranges. The store of keys and values, and the rotary embedding, are
the extension's where it serves, else plain torch's.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sensorium.ops import extension
from sensorium.ops.attention import AttentionBatch, AttentionLayout, AttentionSpec
from sensorium.ops.paged import PagedAttention
from sensorium.ops.reference import ReferenceAttention

#: (version, module, function, what older releases of it lack), the newest first.
VERSIONS = (
    (4, "flash_attn.cute", "flash_attn_varlen_func", ("page_table", "seqused_k", "max_seqlen_k")),
    (3, "flash_attn_interface", "flash_attn_with_kvcache", ("page_table", "max_seqlen_q")),
    (2, "flash_attn", "flash_attn_varlen_func", ("block_table", "softcap")),
)
#: flash-attn 2 reads pages of a multiple of this many tokens.
FLASH_2_PAGE = 256
#: flash-attn 4 has kernels for these heads.
FLASH_4_HEAD_SIZES = (64, 96, 128)


@dataclass(frozen=True, slots=True)
class Flash:
    """An installed version."""

    version: int
    function: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Found:
    """The installed versions.

    Attributes:
        usable: the versions that can be called, the newest first.
        broken: why others that are installed can't be, a sentence each.
    """

    usable: tuple[Flash, ...]
    broken: tuple[str, ...]


class FlashAttention:
    """The backend of whichever version fits the device."""

    name: ClassVar[str] = "flash"
    captures: ClassVar[bool] = True

    def __init__(self) -> None:
        self._flash: Flash | None = None

    def lacks(self, spec: AttentionSpec, layout: AttentionLayout) -> str | None:
        """As ``AttentionBackend.lacks``; remembers which version it answered for."""
        if layout.device.type != "cuda":
            return f"anything for {layout.device.type}"
        if layout.dtype not in (torch.float16, torch.bfloat16):
            return f"{str(layout.dtype).removeprefix('torch.')}"
        if spec.non_causal:
            return "non-causal ranges"
        if layout.head_size > 256 or layout.head_size % 8:
            return f"heads of size {layout.head_size}"
        found = installed()
        lack = "the flash-attn package (it isn't installed)"
        if found.broken:
            lack = f"a flash-attn package that works ({', '.join(found.broken)})"
        for flash in found.usable:
            reason = _unfit(flash.version, layout)
            if reason is None:
                self._flash = flash
                return None
            lack = reason
        return lack

    def store_kv(self, k: Tensor, v: Tensor, kv: Tensor, slot_mapping: Tensor) -> None:
        """As ``AttentionBackend.store_kv``."""
        _storing(k).store_kv(k, v, kv, slot_mapping)

    def rope_store_kv(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        kv: Tensor,
        slot_mapping: Tensor,
    ) -> Tensor:
        """As ``AttentionBackend.rope_store_kv``."""
        return _storing(q).rope_store_kv(q, k, v, cos, sin, kv, slot_mapping)

    def paged_attention(
        self, q: Tensor, kv: Tensor, batch: AttentionBatch, spec: AttentionSpec
    ) -> Tensor:
        """As ``AttentionBackend.paged_attention``."""
        assert self._flash is not None, "lacks() comes first"
        assert batch.reach is None, "flash-attn has no non-causal ranges"
        extension.count(q, f"flash_{self._flash.version}")
        given = _arguments(self._flash.version, q, kv, batch, spec)
        out = self._flash.function(**given)
        result: Tensor = out[0] if isinstance(out, tuple) else out
        return result


@functools.cache
def installed() -> Found:
    """Looks for the packages, once a process."""
    usable, broken = [], []
    for version, module, name, needed in VERSIONS:
        try:
            function = getattr(importlib.import_module(module), name)
        except Exception as error:  # other people's code, perhaps built for another torch
            if not _is_absent(error, module):
                broken.append(f"importing {module} raised {type(error).__name__}")
            continue
        parameters = inspect.signature(function).parameters
        if missing := [argument for argument in needed if argument not in parameters]:
            broken.append(f"{module} is too old: {name} has no {missing[0]}")
        else:
            usable.append(Flash(version, function))
    return Found(tuple(usable), tuple(broken))


def _is_absent(error: Exception, module: str) -> bool:
    """Whether ``module`` itself, or the package that it is in, isn't there."""
    return isinstance(error, ModuleNotFoundError) and error.name in (module, module.split(".")[0])


def _unfit(version: int, layout: AttentionLayout) -> str | None:
    """Why a version can't be used on this device and page size."""
    major, _ = torch.cuda.get_device_capability(layout.device)
    if version == 4 and major not in (10, 11):
        return f"pages on sm_{major}x (flash-attn 4)"
    if version == 4 and layout.head_size not in FLASH_4_HEAD_SIZES:
        sizes = ", ".join(map(str, FLASH_4_HEAD_SIZES))
        return f"heads of size {layout.head_size} (flash-attn 4 has {sizes})"
    if version == 3 and major != 9:
        return f"kernels for sm_{major}x (flash-attn 3)"
    if version == 2 and major < 8:
        return f"kernels for sm_{major}x (flash-attn 2)"
    if version == 2 and layout.page_size % FLASH_2_PAGE:
        return (
            f"pages of {layout.page_size} tokens (flash-attn 2 reads multiples of {FLASH_2_PAGE}; "
            "page_size= sets it)"
        )
    return None


def _arguments(
    version: int, q: Tensor, kv: Tensor, batch: AttentionBatch, spec: AttentionSpec
) -> dict[str, Any]:
    """What a version's function is called with."""
    given: dict[str, Any] = {
        "q": q,
        "cu_seqlens_q": batch.query_start,
        "max_seqlen_q": batch.max_query_len,
        "softmax_scale": spec.scale,
        "causal": True,
        "softcap": spec.soft_cap or 0.0,
    }
    left = None if spec.window is None else spec.window - 1  # keys before the query's own
    if version == 4:
        return given | {
            "k": kv[0],
            "v": kv[1],
            "seqused_k": batch.seq_lens,
            "max_seqlen_k": batch.max_seq_len,
            "page_table": batch.page_table,
            "window_size": (left, None if left is None else 0),
        }
    window = (-1, -1) if left is None else (left, 0)
    if version == 3:
        return given | {
            "k_cache": kv[0],
            "v_cache": kv[1],
            "cache_seqlens": batch.seq_lens,
            "page_table": batch.page_table,
            "window_size": window,
        }
    cu_seqlens_k = torch.nn.functional.pad(batch.seq_lens.cumsum(0, dtype=torch.int32), (1, 0))
    return given | {
        "k": kv[0],
        "v": kv[1],
        "cu_seqlens_k": cu_seqlens_k,
        "max_seqlen_k": batch.max_seq_len,
        "window_size": window,
        "block_table": batch.page_table,
    }


def _storing(x: Tensor) -> PagedAttention | ReferenceAttention:
    return PagedAttention() if extension.serves(x) else ReferenceAttention()
