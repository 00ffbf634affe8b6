"""The shapes of the extension's ops, for tracing without data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def _like_first(x: Tensor, *others: object) -> Tensor:
    return x.new_empty(x.shape)


def _nothing(*args: object) -> None:
    return None


def _half_as_wide(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _spectra(samples: Tensor, window: Tensor, bank: Tensor, hop: int, least: float) -> Tensor:
    rows = 1 + (samples.shape[0] - window.shape[0]) // hop
    return samples.new_empty(rows, bank.shape[1])


#: Op → what it returns for tensors without data.
FAKES: Mapping[str, Callable[..., Tensor | None]] = {
    "paged_attention": _like_first,
    "varlen_attention": _like_first,
    "store_kv": _nothing,
    "rope_store_kv": _nothing,
    "rope": _nothing,
    "rms_norm": _like_first,
    "add_rms_norm": _like_first,
    "silu_mul": _half_as_wide,
    "linear": _product,
    "log_spectra": _spectra,
}


@functools.cache
def register() -> None:
    """Tells torch, once the ops exist, and once a process."""
    for name, fake in FAKES.items():
        torch.library.register_fake(f"sensorium::{name}", fake)
