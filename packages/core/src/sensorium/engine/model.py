"""``Model``: a checkpoint with everything that plugins bring for it, short of its weights.

The frontend and the engine each need it, in one process or in two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sensorium.checkpoint import (
    TEXT_PATTERNS,
    Checkpoint,
    merge,
    open_checkpoint,
    read_other_config,
    resolve_folder,
)
from sensorium.config import EngineConfig
from sensorium.errors import ConfigError
from sensorium.plugins import MediaAdapter, MediaKind, ModelContext, ModelFamily
from sensorium.plugins.registry import Registry
from sensorium.tokenizer import Tokenizer
from sensorium.types import EngineItem


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint with everything that plugins bring for it."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    registry: Registry
    family: ModelFamily
    context: ModelContext
    kinds: Mapping[str, MediaKind]
    adapters: Mapping[str, MediaAdapter]


def load_tokenizer(config: EngineConfig, checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that ``tokenizer=`` names, else the checkpoint's own."""
    if config.tokenizer is None:
        return Tokenizer.load(checkpoint.folder)
    folder = resolve_folder(
        config.tokenizer, download_dir=config.download_dir, patterns=TEXT_PATTERNS
    )
    return Tokenizer.load(folder)


def open_model(config: EngineConfig, registry: Registry) -> Model:
    """Reads the checkpoint, finds who serves its architecture and builds their halves that need
    no weights.

    Raises:
        ConfigError: a checkpoint or an option that can't work.
        PluginError: a plugin that the model needs is missing or broken.
    """
    checkpoint = open_checkpoint(config)
    tokenizer = load_tokenizer(config, checkpoint)
    architecture = checkpoint.architecture
    family = registry.family(architecture)
    checkpoint = complete(checkpoint, family, config)
    decoder = family.decoder_config(checkpoint.config)

    def context(owner: object) -> ModelContext:
        return ModelContext(
            architecture=architecture,
            config=checkpoint.config,
            processor=checkpoint.processor,
            decoder=decoder,
            tokenizer=tokenizer,
            plugin_options=registry.options_of(owner, config.plugin_options),
            other_configs=checkpoint.other_configs,
        )

    registry.check_plugin_options(config.plugin_options)
    kinds, adapters = {}, {}
    for name, adapter in registry.adapters(architecture).items():
        if not adapter.serves(context(adapter)):
            continue
        kinds[name] = registry.kind(name)(config.media_io_kwargs.get(name, {}))
        adapters[name] = adapter(context(adapter))
    check_kind_options("media_io_kwargs", config.media_io_kwargs, kinds, registry, architecture)
    return Model(checkpoint, tokenizer, registry, family, context(family), kinds, adapters)


def complete(checkpoint: Checkpoint, family: ModelFamily, config: EngineConfig) -> Checkpoint:
    """The checkpoint with what its family needs of other checkpoints' ``config.json``.

    Raises:
        ConfigError: another checkpoint that can't be had.
    """
    named = family.other_configs(checkpoint.config)
    if not named:
        return checkpoint
    others = {name: read_other_config(at, config.download_dir) for name, at in named.items()}
    completed = family.complete_config(checkpoint.config, others)
    return replace(checkpoint, config=merge(completed, config.hf_overrides), other_configs=others)


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
    """An entry of ``limit_mm_per_prompt`` in its long form: a count, extents and facts."""
    allowed = ("count", *kind.size_names, *kind.fact_names)
    for key, value in given.items():
        entry = f"limit_mm_per_prompt[{name!r}]"
        if key not in allowed:
            raise ConfigError(f"{entry} has {key!r}; allowed are {', '.join(allowed)}.")
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if key in kind.size_names and not (is_whole and value >= 1):
            raise ConfigError(
                f"{entry}[{key!r}] is {value!r}; it must be an integer of at least 1."
            )
        if key in kind.fact_names and not ((is_whole or isinstance(value, float)) and value > 0):
            raise ConfigError(f"{entry}[{key!r}] is {value!r}; it must be a number above 0.")


def worst_items(config: EngineConfig, model: Model) -> list[EngineItem]:
    """The largest item of each kind, blank, for memory profiling.

    What ``limit_mm_per_prompt`` gives beside a "count" is laid over the adapter's worst case.
    """
    items = []
    for name, adapter in model.adapters.items():
        kind, given = model.kinds[name], config.limit_mm_per_prompt.get(name)
        kwargs = config.mm_processor_kwargs
        options = adapter.options({k: v for k, v in kwargs.items() if k in adapter.option_names})
        shape = adapter.worst_case(options, kind.options_key())
        limits = (
            {k: v for k, v in given.items() if k != "count"} if isinstance(given, Mapping) else {}
        )
        if limits:
            shape = kind.limited(shape, limits)
        blank = kind.blank(shape)
        if blank is None:
            continue
        plan = adapter.plan(blank.shape, options)
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
