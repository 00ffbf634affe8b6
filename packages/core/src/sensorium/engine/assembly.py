"""Puts an engine together: options → checkpoint, plugins, tokenizer, frontend, runner.

The one place that knows all parts. Nothing here runs per request.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensorium.checkpoint import Checkpoint, open_checkpoint, resolve_folder
from sensorium.config import EngineConfig
from sensorium.engine.admission import Admission
from sensorium.engine.client import EngineClient, ThreadClient
from sensorium.engine.core import EngineCore
from sensorium.errors import ConfigError, PluginError
from sensorium.frontend.chat import ChatFrontend
from sensorium.frontend.frontend import Frontend
from sensorium.media.pipeline import MediaPipeline
from sensorium.plugins import MediaAdapter, MediaKind, ModelContext, ModelFamily
from sensorium.plugins.discovery import discover
from sensorium.plugins.registry import Registry
from sensorium.runner import Runner
from sensorium.scheduler import Scheduler, SchedulerConfig
from sensorium.tokenizer import Tokenizer

logger = logging.getLogger("sensorium.engine")

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts that ``AsyncEngine`` uses."""

    frontend: Frontend
    admission: Admission
    client: EngineClient
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint with everything that plugins bring for it."""

    checkpoint: Checkpoint
    registry: Registry
    family: ModelFamily
    context: ModelContext
    kinds: Mapping[str, MediaKind]
    adapters: Mapping[str, MediaAdapter]


def assemble(config: EngineConfig) -> Assembly:
    """Builds all parts; the engine's thread is not started yet.

    Raises:
        ConfigError, PluginError: as ``AsyncEngine``.
    """
    registry = discover(choices=config.plugin_choices)
    checkpoint = open_checkpoint(config)
    tokenizer = load_tokenizer(config, checkpoint)
    model = open_model(config, registry, checkpoint, tokenizer)
    limits = item_limits(config, model.kinds)
    runner = Runner(config, checkpoint, model.family, model.registry, model.adapters)
    pipeline = MediaPipeline(
        model.kinds,
        model.adapters,
        limits=limits,
        processor_kwargs=config.mm_processor_kwargs,
        cache_bytes=int(config.mm_processor_cache_gb * GIB),
        num_threads=config.media_threads,
        uuids_ignored=config.mm_processor_cache_gb == 0 and not config.enable_prefix_caching,
    )
    admission = Admission(
        tokenizer=tokenizer,
        generation=checkpoint.generation,
        config_eos=config_eos_ids(checkpoint.config),
        embed_row_bytes=runner.embed_row_bytes,
        max_model_len=runner.max_model_len,
        vocab_size=model.context.decoder.vocab_size,
    )
    scheduler = Scheduler(scheduler_config(config, runner))
    return Assembly(
        frontend=build_frontend(config, model, tokenizer, pipeline),
        admission=admission,
        client=ThreadClient(EngineCore(scheduler, runner)),
        tokenizer=tokenizer,
    )
