"""Builds the engine's half: a model → the ``EngineCore`` that computes with it.

Knows no prompts, no text and no clients; it runs where the engine runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sensorium.config import GIB, EngineConfig
from sensorium.engine.core import EngineCore
from sensorium.engine.generation_config import find_eos_ids
from sensorium.engine.grammars import EngineGrammars
from sensorium.engine.model import Model, count_of, worst_items
from sensorium.grammar import Grammars
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
        lost_kinds: kind → why it can't be served: an encoder of it couldn't be built or filled.
    """

    device: str
    dtype: str
    max_model_len: int
    embed_row_bytes: Mapping[str, int]
    num_kv_tokens: int = 0
    attention: str = ""
    lost_kinds: Mapping[str, str] = field(default_factory=dict)


def build_engine(
    config: EngineConfig, model: Model, *, reads_vocabulary: bool = False
) -> tuple[EngineCore, EngineInfo]:
    """Loads the weights and finds out how much fits beside them.

    Args:
        reads_vocabulary: the tokenizer's vocabulary is read for grammars now, so that no request
            waits for it later.

    Raises:
        ConfigError: the checkpoint doesn't load, or there is no room.
        PluginError: an encoder can't be built.
    """
    registry = model.registry
    specs = registry.encoders(model.checkpoint.architecture)
    runner = Runner(
        config,
        model.checkpoint,
        model.family,
        specs,
        {k: a for k, a in model.adapters.items() if count_of(config, k) != 0},
        options_of=lambda name: registry.options_of(specs[name], config.plugin_options),
        owner_of=lambda name: registry.owner_of(specs[name]),
        worst_items=lambda kinds: worst_items(config, model, kinds),
    )
    found = runner.info
    info = EngineInfo(
        device=found.device,
        dtype=found.dtype,
        max_model_len=found.max_model_len,
        embed_row_bytes=dict(found.embed_row_bytes),
        num_kv_tokens=found.num_pages * config.page_size,
        attention=found.attention,
        lost_kinds=dict(runner.lost_kinds),
    )
    grammars = Grammars(model.tokenizer, found.vocab_size)
    if reads_vocabulary:
        grammars.load(_eos_ids(model))
    of_requests = EngineGrammars(grammars, forces=config.structured_outputs_forcing)
    return EngineCore(Scheduler(scheduler_config(config, found)), runner, of_requests), info


def _eos_ids(model: Model) -> frozenset[int]:
    checkpoint = model.checkpoint
    return find_eos_ids(
        checkpoint.name,
        checkpoint.generation,
        checkpoint.config,
        model.tokenizer,
        model.context.decoder.vocab_size,
        checkpoint.generation_of,
    )


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
        max_encode_pieces_per_step=config.max_encode_pieces_per_step,
    )
