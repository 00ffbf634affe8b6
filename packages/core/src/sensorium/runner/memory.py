"""How many KV pages fit.

    accelerator  utilisation · total − what others use − weights − peak of a step − embeddings
    CPU          room for max_num_seqs contexts, at most 4 GiB and a quarter of memory
    either       kv_cache_memory_bytes, where it is given
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from sensorium.config import EngineConfig
from sensorium.errors import ConfigError
from sensorium.types import KVShape

GIB = 2**30
CPU_KV_BYTES = 4 * GIB


def count_pages(shape: KVShape, kv_bytes: int, max_model_len: int, max_num_seqs: int) -> int:
    """Pages that fit into ``kv_bytes``, but not more than all contexts together can use."""
    wanted = max_num_seqs * pages_for(max_model_len, shape.page_size)
    return max(0, min(wanted, kv_bytes // shape.page_bytes))


def pages_for(num_tokens: int, page_size: int) -> int:
    """Pages that hold this many tokens of one sequence."""
    return -(-num_tokens // page_size)


def context_that_fits(
    config: EngineConfig, shape: KVShape, num_pages: int, max_model_len: int
) -> int:
    """The context's length: ``max_model_len``, or less where nobody asked for that much.

    Raises:
        ConfigError: the pages don't hold the context that was asked for, or nearly nothing.
    """
    num_tokens = num_pages * shape.page_size
    if num_tokens >= max_model_len:
        return max_model_len
    if config.max_model_len is None and num_pages > 1:
        return num_tokens
    needed = pages_for(max_model_len, shape.page_size) * shape.page_bytes
    raise ConfigError(
        f"The KV cache has room for {num_tokens} tokens; one context of {max_model_len} "
        f"(max_model_len) takes {needed / GIB:.2f} GiB. Lower max_model_len, or raise "
        "kv_cache_memory_bytes or gpu_memory_utilization."
    )


def cpu_kv_bytes(config: EngineConfig) -> int:
    """The KV cache's size on the CPU."""
    if config.kv_cache_memory_bytes is not None:
        return config.kv_cache_memory_bytes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(CPU_KV_BYTES, memory // 4)


def cuda_kv_bytes(
    config: EngineConfig,
    device: torch.device,
    worst_steps: list[Callable[[], object]],
    embedding_bytes: int,
) -> int:
    """The KV cache's size on an accelerator whose weights are loaded.

    Args:
        worst_steps: each does what a step may need at most, once, one after another.
        embedding_bytes: size of the encoder cache.
    """
    if config.kv_cache_memory_bytes is not None:
        return config.kv_cache_memory_bytes
    weights = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    for run in worst_steps:
        run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - weights
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    budget = int(config.gpu_memory_utilization * total)
    return budget - others - weights - peak - embedding_bytes
