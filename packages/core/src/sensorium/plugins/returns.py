"""What hooks may return: every object is checked where it comes in, and never again.

Each check takes what a hook returned and gives it back as a tuple, or says in a sentence
what is wrong with it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.command import Command
from sensorium.plugins.encoder import EncoderSpec, WeightMap
from sensorium.plugins.failure import PluginFailure
from sensorium.plugins.family import ModelFamily
from sensorium.plugins.kind import MediaKind

#: Subcommands of ``sensorium`` that core answers itself.
RESERVED_COMMANDS = ("plugins",)
#: The part type that is text, whatever is installed.
RESERVED_PART_TYPE = "text"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]*/(\*|[a-z0-9][a-z0-9.+-]*)")
_MISSING = object()


def check_kinds(value: object) -> tuple[type[MediaKind], ...]:
    """A list of concrete ``MediaKind`` classes."""
    kinds = _list_of_classes(value, MediaKind)
    for kind in kinds:
        label = f"the kind {kind.__name__}"
        _name(label, "name", _attribute(label, kind, "name"))
        part_types = _names(label, kind, "part_types")
        offline = _names(label, kind, "offline_part_types")
        sizes, facts = _names(label, kind, "size_names"), _names(label, kind, "fact_names")
        if both := [name for name in facts if name in (*sizes, "count")]:
            raise PluginFailure(f"{label} has {both[0]!r} in fact_names, which is taken")
        _media_types(label, kind.media_types)
        if RESERVED_PART_TYPE in part_types:
            raise PluginFailure(f"{label} has the part type {RESERVED_PART_TYPE!r}, core's own")
        if extra := [name for name in offline if name not in part_types]:
            raise PluginFailure(f"{label} has {extra[0]!r} in offline_part_types only")
        for name in ("fetch_timeout_s", "max_fetch_bytes", "max_decoded_bytes"):
            _positive(label, name, getattr(kind, name))
        if kind.default_limit is not None:
            _integer(label, "default_limit", kind.default_limit, at_least=0)
    return kinds


def check_families(value: object) -> tuple[ModelFamily, ...]:
    """A list of ``ModelFamily`` instances."""
    families = _each_once(_list(value))
    for family in families:
        if not isinstance(family, ModelFamily):
            raise PluginFailure(
                f"returned {_shown(family)} in its list; it must be an instance of ModelFamily"
            )
        label = f"the family {type(family).__name__}"
        _names(label, family, "architectures", at_least=1)
        if family.task not in ("generate", "embed"):
            raise PluginFailure(
                f'{label} has task {family.task!r}; allowed are "generate" and "embed"'
            )
        _integer(label, "position_axes", family.position_axes, at_least=1)
        _encoders(label, "encoders", family.encoders)
        if not isinstance(family.chat_template, str | None):
            raise PluginFailure(f"{label} has a chat_template that is no text")
        named = family.chat_templates
        if not isinstance(named, Mapping) or not all(
            isinstance(entry, str) for pair in named.items() for entry in pair
        ):
            raise PluginFailure(f"{label} has chat_templates that are no mapping of names to texts")
    return families


def check_adapters(value: object) -> tuple[type[MediaAdapter], ...]:
    """A list of concrete ``MediaAdapter`` classes."""
    adapters = _list_of_classes(value, MediaAdapter)
    for adapter in adapters:
        label = f"the adapter {adapter.__name__}"
        _name(label, "kind", _attribute(label, adapter, "kind"))
        _names(label, adapter, "architectures", at_least=1)
        _integer(label, "version", adapter.version, at_least=0)
        encoders = _names(label, adapter, "encoders", at_least=1)
        for spec in _encoders(label, "own_encoders", adapter.own_encoders):
            if spec.name not in encoders:
                raise PluginFailure(
                    f"{label} brings the encoder {spec.name!r} and doesn't name it in encoders"
                )
        for name in ("atomic_prefill", "non_causal"):
            if not isinstance(getattr(adapter, name), bool):
                raise PluginFailure(
                    f"{label} has {name} = {getattr(adapter, name)!r}; it is a bool"
                )
        if not isinstance(adapter.option_names, frozenset):
            raise PluginFailure(f"{label} has option_names that is no frozenset")
    return adapters


def check_commands(value: object) -> tuple[Command, ...]:
    """A list of ``Command`` objects."""
    commands = _list(value)
    for command in commands:
        if not isinstance(command, Command):
            raise PluginFailure(f"returned {_shown(command)} in its list; it must be a Command")
        label = f"the command {command.name!r}"
        _name(label, "name", command.name)
        if command.name in RESERVED_COMMANDS:
            raise PluginFailure(f"{label} is core's own")
        if not isinstance(command.help, str):
            raise PluginFailure(f"{label} has a help that is no text")
        for name in ("add_arguments", "run"):
            if not callable(getattr(command, name)):
                raise PluginFailure(f"{label} has {name} that can't be called")
    if len({command.name for command in commands}) < len(commands):
        raise PluginFailure("returned two commands with one name")
    return commands


def check_assets(value: object) -> tuple[tuple[str, ModuleType], ...]:
    """A mapping from kinds' names to modules, as its items."""
    if not isinstance(value, Mapping):
        raise PluginFailure(f"returned {_shown(value)}; it must be a mapping of kind → module")
    for kind, module in value.items():
        _name("its mapping", "a key", kind)
        if not isinstance(module, ModuleType):
            raise PluginFailure(f"returned {_shown(module)} for {kind!r}; it must be a module")
    return tuple(value.items())


def check_models(value: object) -> tuple[tuple[str, Path], ...]:
    """A mapping from models' names to folders, as its items."""
    if not isinstance(value, Mapping):
        raise PluginFailure(f"returned {_shown(value)}; it must be a mapping of name → folder")
    for name, folder in value.items():
        _name("its mapping", "a key", name)
        if not isinstance(folder, Path) or not folder.is_dir():
            raise PluginFailure(
                f"returned {_shown(folder)} for {name!r}; it must be a folder's Path"
            )
    return tuple(value.items())


#: Hook → the check of what it returns.
CHECKS: Mapping[str, Callable[[object], tuple[Any, ...]]] = {
    "sensorium_media_kinds": check_kinds,
    "sensorium_model_families": check_families,
    "sensorium_media_adapters": check_adapters,
    "sensorium_commands": check_commands,
    "sensorium_assets": check_assets,
    "sensorium_models": check_models,
}


def _list(value: object) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise PluginFailure(f"returned {_shown(value)}; it must be a list")
    return tuple(value)


def _list_of_classes(value: object, base: type) -> tuple[Any, ...]:
    for entry in _list(value):
        if not (isinstance(entry, type) and issubclass(entry, base)):
            raise PluginFailure(
                f"returned {_shown(entry)} in its list; it must be a class derived from "
                f"{base.__name__}"
            )
        if inspect.isabstract(entry):
            missing = ", ".join(sorted(getattr(entry, "__abstractmethods__", ())))
            raise PluginFailure(f"the class {entry.__name__} doesn't implement {missing}")
    return _each_once(_list(value))


def _each_once(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    for place, entry in enumerate(entries):
        if any(entry is earlier for earlier in entries[:place]):
            raise PluginFailure(f"returned {_shown(entry)} twice in its list")
    return entries


def _attribute(label: str, owner: object, name: str) -> Any:
    value = getattr(owner, name, _MISSING)
    if value is _MISSING:
        raise PluginFailure(f"{label} states no {name}")
    return value


def _name(label: str, name: str, value: object) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise PluginFailure(
            f"{label} has {_shown(value)} as {name}; it must be a letter, then letters, digits, "
            "underscores or hyphens"
        )


def _names(label: str, owner: object, name: str, *, at_least: int = 0) -> tuple[str, ...]:
    values = _attribute(label, owner, name)
    if not isinstance(values, tuple):
        raise PluginFailure(f"{label} has {name} = {_shown(values)}; it must be a tuple of names")
    for value in values:
        _name(label, f"an entry of {name}", value)
    if len(values) < at_least:
        raise PluginFailure(f"{label} has no {name}")
    if len(set(values)) < len(values):
        raise PluginFailure(f"{label} names something twice in {name}")
    return values


def _media_types(label: str, values: object) -> None:
    if not isinstance(values, tuple):
        raise PluginFailure(f"{label} has media_types = {_shown(values)}; it must be a tuple")
    for value in values:
        if not isinstance(value, str) or not _MEDIA_TYPE.fullmatch(value):
            raise PluginFailure(
                f"{label} has {_shown(value)} in media_types; an entry is TYPE/SUBTYPE or TYPE/*, "
                "in lower case"
            )


def _encoders(label: str, name: str, specs: object) -> tuple[EncoderSpec, ...]:
    if not isinstance(specs, tuple) or not all(isinstance(s, EncoderSpec) for s in specs):
        raise PluginFailure(f"{label} has {name} that is no tuple of EncoderSpec")
    for spec in specs:
        encoder = f"{label}'s encoder {spec.name!r}"
        _name(encoder, "name", spec.name)
        if not isinstance(spec.weights, WeightMap) and not callable(spec.weights):
            raise PluginFailure(f"{encoder} has weights that is no WeightMap and no function")
        for part in ("build", "source", "deep_levels"):
            given = getattr(spec, part)
            if not callable(given) and (given is not None or part == "build"):
                raise PluginFailure(f"{encoder} has {part} that can't be called")
    if len({spec.name for spec in specs}) < len(specs):
        raise PluginFailure(f"{label} names an encoder twice in {name}")
    return specs


def _integer(label: str, name: str, value: object, *, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise PluginFailure(
            f"{label} has {name} = {_shown(value)}; it must be an integer of at least {at_least}"
        )


def _positive(label: str, name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise PluginFailure(f"{label} has {name} = {_shown(value)}; it must be a number above 0")


def _shown(value: object) -> str:
    """A value in a message: plain values as they are, anything else by its type."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"
