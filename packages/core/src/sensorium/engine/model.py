"""``Model``: a checkpoint with everything that plugins bring for it, except weights.

The frontend and the engine each need it, in one process or in two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
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
from sensorium.errors import ConfigError, PluginError
from sensorium.plugins import MediaAdapter, MediaKind, ModelContext, ModelFamily
from sensorium.plugins.guard import GuardedAdapter, GuardedFamily, GuardedKind
from sensorium.plugins.registry import Registry
from sensorium.tokenizer import Tokenizer
from sensorium.types import EngineItem


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint with everything that plugins bring for it.

    Attributes:
        family, kinds, adapters: behind the guard, as core calls them.
        unavailable: kind → why the model doesn't take it although an adapter says so: a plugin
            failed, or declined the model.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    registry: Registry
    family: ModelFamily
    context: ModelContext
    kinds: Mapping[str, MediaKind]
    adapters: Mapping[str, MediaAdapter]
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def without(self, lost: Mapping[str, str]) -> Model:
        """The model without some kinds.

        Args:
            lost: kind → why.
        """
        return replace(
            self,
            kinds={name: kind for name, kind in self.kinds.items() if name not in lost},
            adapters={name: one for name, one in self.adapters.items() if name not in lost},
            unavailable={**self.unavailable, **lost},
        )

    def find_kind(self, name: str) -> None:
        """Raises the error of a kind that the model doesn't take because of a plugin.

        Raises:
            PluginError: no plugin serves it, or the one that would failed.
        """
        if name in self.unavailable:
            raise PluginError(self.unavailable[name])
        self.registry.adapter(self.checkpoint.architecture, name)

    def find_part(self, part_type: str) -> None:
        """As ``find_kind``, of the kind that answers to a chat part type."""
        name = self.registry.kind_of_part(part_type).name
        if name in self.unavailable:
            raise PluginError(self.unavailable[name])


def load_tokenizer(config: EngineConfig, checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that ``tokenizer=`` names, else the checkpoint's own."""
    if config.tokenizer is None:
        return Tokenizer.load(checkpoint.folder)
    folder = resolve_folder(
        config.tokenizer, download_dir=config.download_dir, patterns=TEXT_PATTERNS
    )
    return Tokenizer.load(folder)


def open_model(config: EngineConfig, registry: Registry) -> Model:
    """Reads the checkpoint, finds the plugins that serve its architecture and makes their objects
    that need no weights.

    Raises:
        ConfigError: a checkpoint or an option that can't work.
        PluginError: a plugin that the model needs is missing or broken.
    """
    is_local = Path(config.model).expanduser().exists()
    embedded = None if is_local else registry.embedded_model(config.model)
    checkpoint = open_checkpoint(config, embedded)
    tokenizer = load_tokenizer(config, checkpoint)
    architecture = checkpoint.architecture
    own_family = registry.family(architecture)
    family = GuardedFamily(own_family, registry.owner_of(own_family))
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
    kinds: dict[str, MediaKind] = {}
    adapters: dict[str, MediaAdapter] = {}
    unavailable: dict[str, str] = {}
    for name, adapter in registry.adapters(architecture).items():
        kind, owner = registry.kind(name), registry.owner_of(adapter)
        try:
            made = GuardedAdapter.make(adapter, context(adapter), owner)
            if made is None:
                unavailable[name] = (
                    f"{adapter.__qualname__} of {owner}, which lets {architecture} take the kind "
                    f"{name}, doesn't serve this model."
                )
                continue
            options = config.media_io_kwargs.get(name, {})
            kinds[name] = GuardedKind.make(kind, options, registry.owner_of(kind))
            adapters[name] = made
        except PluginError as error:
            unavailable[name] = str(error)
        except ConfigError as error:
            if count_of(config, name) != 0:
                raise
            unavailable[name] = str(error)
    model = Model(
        checkpoint, tokenizer, registry, family, context(own_family), kinds, adapters, unavailable
    )
    check_kind_options("media_io_kwargs", config.media_io_kwargs, model)
    return model


def count_of(config: EngineConfig, kind: str) -> object:
    """What ``limit_mm_per_prompt`` says of a kind's items, unchecked; None: nothing."""
    given = config.limit_mm_per_prompt.get(kind)
    return given.get("count") if isinstance(given, Mapping) else given


def complete(checkpoint: Checkpoint, family: ModelFamily, config: EngineConfig) -> Checkpoint:
    """The checkpoint, completed by the ``config.json`` of other checkpoints that its family names.

    Raises:
        ConfigError: another checkpoint that can't be had.
    """
    named = family.other_configs(checkpoint.config)
    if not named:
        return checkpoint
    others = {name: read_other_config(at, config.download_dir) for name, at in named.items()}
    completed = family.complete_config(checkpoint.config, others)
    return replace(checkpoint, config=merge(completed, config.hf_overrides), other_configs=others)


def check_kind_options(option: str, given: Mapping[str, Any], model: Model) -> None:
    """Refuses an entry for a kind that this model doesn't take.

    An entry for a kind whose plugin failed is accepted, since it is valid once the plugin works.
    """
    for name in given:
        if name in model.kinds or name in model.unavailable:
            continue
        model.registry.kind(name)  # not installed, or failed: its own message
        taken = ", ".join(sorted(model.kinds)) or "no media"
        architecture = model.checkpoint.architecture
        raise ConfigError(f"{option} names {name}; {architecture} takes {taken}.")


def item_limits(config: EngineConfig, model: Model) -> dict[str, int | None]:
    """Kind → items in one prompt at most; None: as many as fit.

    A mapping's sizes, beside its "count", are what memory profiling assumes (``worst_items``).
    """
    limits = {name: kind.default_limit for name, kind in model.kinds.items()}
    check_kind_options("limit_mm_per_prompt", config.limit_mm_per_prompt, model)
    for name, given in config.limit_mm_per_prompt.items():
        if isinstance(given, Mapping) and name in model.kinds:
            check_sizes(name, given, model.kinds[name])
        count = count_of(config, name)
        if count is None:
            continue
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ConfigError(
                f"limit_mm_per_prompt[{name!r}] is {count!r}; it must be an integer of at least 0."
            )
        if name in model.kinds:
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


def worst_items(
    config: EngineConfig, model: Model, kinds: Collection[str] | None = None
) -> list[EngineItem]:
    """The largest item of each of some kinds (None: of all), blank, for memory profiling.

    What ``limit_mm_per_prompt`` gives beside a "count" is laid over the adapter's worst case.
    """
    items = []
    for name, adapter in model.adapters.items():
        if kinds is not None and name not in kinds:
            continue
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
                num_pieces=plan.num_pieces,
            )
        )
    return items
