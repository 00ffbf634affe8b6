"""Puts an engine together: options → checkpoint, plugins, tokenizer, frontend, runner.

The one place that knows all parts. Nothing here runs per request.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sensorium.checkpoint import TEXT_PATTERNS, Checkpoint, open_checkpoint, resolve_folder
from sensorium.config import EngineConfig
from sensorium.engine.admission import Admission
from sensorium.engine.client import EngineClient, ThreadClient
from sensorium.engine.core import EngineCore
from sensorium.errors import ConfigError
from sensorium.frontend.chat import ChatRenderer
from sensorium.frontend.frontend import Frontend
from sensorium.media.pipeline import MediaPipeline
from sensorium.plugins import MediaAdapter, MediaKind, ModelContext, ModelFamily
from sensorium.plugins.discovery import discover
from sensorium.plugins.registry import Registry
from sensorium.runner import Runner
from sensorium.scheduler import Scheduler, SchedulerConfig
from sensorium.tokenizer import Tokenizer, load_template
from sensorium.types import EngineItem

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
    for status in registry.statuses:
        if status.error is not None:
            logger.warning("the plugin %s failed: %s", status.name, status.error)
    checkpoint = open_checkpoint(config)
    tokenizer = load_tokenizer(config, checkpoint)
    model = open_model(config, registry, checkpoint, tokenizer)
    limits = item_limits(config, model)
    runner = Runner(
        config,
        checkpoint,
        model.family,
        registry.encoders(checkpoint.architecture),
        model.adapters,
        options_of=lambda thing: registry.options_of(thing, config.plugin_options),
        worst_items=lambda: worst_items(config, model),
    )
    pipeline = MediaPipeline(
        model.kinds,
        model.adapters,
        limits=limits,
        processor_kwargs=config.mm_processor_kwargs,
        cache_bytes=int(config.mm_processor_cache_gb * GIB),
        num_threads=config.media_threads,
        uuids_ignored=config.mm_processor_cache_gb == 0 and not config.enable_prefix_caching,
        architecture=checkpoint.architecture,
        find_kind=partial(registry.adapter, checkpoint.architecture),
        embed_widths={
            kind: num_bytes // runner.dtype.itemsize
            for kind, num_bytes in runner.embed_row_bytes.items()
        },
        dtype=runner.dtype,
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


def load_tokenizer(config: EngineConfig, checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that ``tokenizer=`` names, else the checkpoint's own."""
    if config.tokenizer is None:
        return Tokenizer.load(checkpoint.folder)
    folder = resolve_folder(
        config.tokenizer, download_dir=config.download_dir, patterns=TEXT_PATTERNS
    )
    return Tokenizer.load(folder)


def open_model(
    config: EngineConfig, registry: Registry, checkpoint: Checkpoint, tokenizer: Tokenizer
) -> Model:
    """Finds who serves the checkpoint's architecture and builds their frontend halves."""
    architecture = checkpoint.architecture
    family = registry.family(architecture)
    if family.task != "generate":
        raise ConfigError(
            f"{architecture} is made to {family.task}; only generate is built so far."
        )
    decoder = family.decoder_config(checkpoint.config)

    def context(owner: object) -> ModelContext:
        return ModelContext(
            architecture=architecture,
            config=checkpoint.config,
            processor=checkpoint.processor,
            decoder=decoder,
            tokenizer=tokenizer,
            plugin_options=registry.options_of(owner, config.plugin_options),
        )

    registry.check_plugin_options(config.plugin_options)
    kinds, adapters = {}, {}
    for name, adapter in registry.adapters(architecture).items():
        kinds[name] = registry.kind(name)(config.media_io_kwargs.get(name, {}))
        adapters[name] = adapter(context(adapter))
    check_kind_options("media_io_kwargs", config.media_io_kwargs, kinds, registry, architecture)
    return Model(checkpoint, registry, family, context(family), kinds, adapters)


def check_kind_options(
    option: str,
    given: Mapping[str, Any],
    kinds: Mapping[str, MediaKind],
    registry: Registry,
    architecture: str,
) -> None:
    """An entry for a kind that this model doesn't take is a mistake worth a sentence."""
    for name in given:
        if name in kinds:
            continue
        registry.kind(name)  # not installed, or failed: its own message
        taken = ", ".join(sorted(kinds)) or "no media"
        raise ConfigError(f"{option} names {name}; {architecture} takes {taken}.")


def item_limits(config: EngineConfig, model: Model) -> dict[str, int | None]:
    """Kind → items in one prompt at most; None: as many as fit.

    A mapping's sizes, beside its "count", are what memory profiling assumes (``worst_items``).
    """
    limits = {name: kind.default_limit for name, kind in model.kinds.items()}
    check_kind_options(
        "limit_mm_per_prompt",
        config.limit_mm_per_prompt,
        model.kinds,
        model.registry,
        model.context.architecture,
    )
    for name, given in config.limit_mm_per_prompt.items():
        if isinstance(given, Mapping):
            check_sizes(name, given, model.kinds[name])
        count = given.get("count") if isinstance(given, Mapping) else given
        if count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ConfigError(
                f"limit_mm_per_prompt[{name!r}] is {count!r}; it must be an integer of at least 0."
            )
        limits[name] = count
    return limits


def check_sizes(name: str, given: Mapping[str, Any], kind: MediaKind) -> None:
    """An entry of ``limit_mm_per_prompt`` in its long form."""
    allowed = ("count", *kind.size_names)
    for key, value in given.items():
        if key not in allowed:
            raise ConfigError(
                f"limit_mm_per_prompt[{name!r}] has {key!r}; allowed are {', '.join(allowed)}."
            )
        if key != "count" and (not isinstance(value, int) or value < 1):
            raise ConfigError(
                f"limit_mm_per_prompt[{name!r}][{key!r}] is {value!r}; it must be an integer of "
                "at least 1."
            )


def worst_items(config: EngineConfig, model: Model) -> list[EngineItem]:
    """The largest item of each kind, blank, for memory profiling.

    Sizes that ``limit_mm_per_prompt`` gives beside a "count" replace the adapter's worst case.
    """
    items = []
    for name, adapter in model.adapters.items():
        given = config.limit_mm_per_prompt.get(name)
        kwargs = config.mm_processor_kwargs
        options = adapter.options({k: v for k, v in kwargs.items() if k in adapter.option_names})
        size = list(adapter.worst_case(options))
        for dimension, value in given.items() if isinstance(given, Mapping) else ():
            if dimension != "count":
                size[model.kinds[name].size_names.index(dimension)] = value
        blank = model.kinds[name].blank(tuple(size))
        if blank is None:
            continue
        plan = adapter.plan(tuple(size), options)
        items.append(
            EngineItem(
                key=f"profile {name}".encode(),
                kind=name,
                num_tokens=plan.num_tokens,
                embed_bytes=0,
                features=adapter.process(blank, plan, options),
            )
        )
    return items


def config_eos_ids(config: Mapping[str, Any]) -> list[int]:
    """End-of-text ids that ``config.json`` names, at its top or in its text part."""
    for part in (config, config.get("text_config") or {}):
        value = part.get("eos_token_id")
        if value is not None:
            return [int(v) for v in value] if isinstance(value, list) else [int(value)]
    return []


def scheduler_config(config: EngineConfig, runner: Runner) -> SchedulerConfig:
    """The scheduler's limits, from the options and from what the runner found room for."""
    return SchedulerConfig(
        page_size=config.page_size,
        num_pages=runner.num_pages,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs,
        max_model_len=runner.max_model_len,
        prefix_caching=config.enable_prefix_caching,
        chunked_prefill=config.enable_chunked_prefill,
        encoder_cache_bytes=int(config.mm_encoder_cache_gb * GIB),
    )


def build_frontend(
    config: EngineConfig, model: Model, tokenizer: Tokenizer, pipeline: MediaPipeline
) -> Frontend:
    """The way in."""
    folder = model.checkpoint.folder
    template = load_template(config.chat_template, folder, tokenizer, model.family.chat_template)
    chat = ChatRenderer(
        template=template,
        tokenizer=tokenizer,
        kinds=model.kinds,
        adapters=model.adapters,
        content_format=config.chat_template_content_format,
        interleave_mm_strings=config.interleave_mm_strings,
        find_part=model.registry.kind_of_part,
    )
    return Frontend(
        folder=folder,
        tokenizer=tokenizer,
        family=model.family,
        adapters=model.adapters,
        context=model.context,
        pipeline=pipeline,
        chat=chat,
    )
