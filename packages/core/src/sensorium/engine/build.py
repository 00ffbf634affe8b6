"""The engine's half of an assembly: a model → the core that computes with it.

Knows no prompts, no text and no clients; it runs where the engine runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sensorium.config import GIB, EngineConfig
from sensorium.engine.core import EngineCore
from sensorium.engine.model import Model, worst_items
from sensorium.runner import Runner
from sensorium.scheduler import Scheduler, SchedulerConfig
from sensorium.types import ExecutorInfo


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the frontend must know of a loaded engine.

    Attributes:
        device, dtype: what it computes on and in, as torch prints them (the dtype without
            ``torch.``).
        max_model_len: tokens of one sequence at most.
        embed_row_bytes: kind → bytes of one row of an item's embedding, all levels.
        num_kv_tokens: tokens that the KV cache holds.
        attention: the backends that were chosen, in words.
    """

    device: str
    dtype: str
    max_model_len: int
    embed_row_bytes: Mapping[str, int]
    num_kv_tokens: int = 0
    attention: str = ""


def build_engine(config: EngineConfig, model: Model) -> tuple[EngineCore, EngineInfo]:
    """Loads the weights and finds out how much fits beside them.

    Raises:
        ConfigError: the checkpoint doesn't load, or there is no room.
        PluginError: an encoder can't be built.
    """
    runner = Runner(
        config,
        model.checkpoint,
        model.family,
        model.registry.encoders(model.checkpoint.architecture),
        model.adapters,
        options_of=lambda thing: model.registry.options_of(thing, config.plugin_options),
        worst_items=lambda: worst_items(config, model),
    )
    found = runner.info
    info = EngineInfo(
        device=found.device,
        dtype=found.dtype,
        max_model_len=found.max_model_len,
        embed_row_bytes=dict(found.embed_row_bytes),
        num_kv_tokens=found.num_pages * config.page_size,
        attention=found.attention,
    )
    return EngineCore(Scheduler(scheduler_config(config, found)), runner), info


def scheduler_config(config: EngineConfig, info: ExecutorInfo) -> SchedulerConfig:
    """The scheduler's limits, from the options and from what the executor found room for."""
    return SchedulerConfig(
        page_size=config.page_size,
        num_pages=info.num_pages,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs,
        max_model_len=info.max_model_len,
        prefix_caching=config.enable_prefix_caching,
        chunked_prefill=config.enable_chunked_prefill,
        encoder_cache_bytes=int(config.mm_encoder_cache_gb * GIB),
    )
