"""``sensorium plugins check DISTRIBUTION``: checks of a plugin that need no model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from sensorium.errors import MediaError, PluginError, SensoriumError
from sensorium.plugins.claims import claims_of
from sensorium.plugins.guard import GuardedKind
from sensorium.plugins.installed import InstalledPlugin
from sensorium.plugins.registry import Registry


def check_distribution(registry: Registry, distribution: str) -> Iterator[tuple[str, str | None]]:
    """Each check's name, and its fault (None: none).

    Raises:
        PluginError: no such distribution is installed.
    """
    for plugin in registry.plugins_of(distribution):
        yield f"{plugin.name} is found and brings what it may", _state(plugin)
        if plugin.error or plugin.disabled:
            continue
        for claim, _ in claims_of(plugin):
            yield f"{claim} is contested by nobody", registry.conflicts.get(claim)
        for kind in plugin.brings("sensorium_media_kinds"):
            made: list[GuardedKind] = []
            yield (
                f"the kind {kind.name} can be made without options",
                _wrong(lambda: made.append(GuardedKind.make(kind, {}, plugin.distribution))),  # noqa: B023
            )
            for guarded in made:
                yield from _check_kind(guarded)
        for adapter in plugin.brings("sensorium_media_adapters"):
            for architecture in adapter.architectures:
                yield (
                    f"{adapter.__name__} has its kind and encoders for {architecture}",
                    _wrong(lambda: registry.adapter(architecture, adapter.kind)),  # noqa: B023
                )
        for command in plugin.brings("sensorium_commands"):
            parser = argparse.ArgumentParser(command.name)
            yield (
                f"the command {command.name} declares its options",
                _wrong(lambda: command.add_arguments(parser)),  # noqa: B023
            )


def _state(plugin: InstalledPlugin) -> str | None:
    return "it is switched off" if plugin.disabled else plugin.error


def _check_kind(kind: GuardedKind) -> Iterator[tuple[str, str | None]]:
    for part_type in kind.part_types:
        yield (
            f"the part {part_type} may come without data, for a uuid to stand for it",
            _wrong(lambda: _without_data(kind, part_type)),  # noqa: B023
        )
    yield "an object of no form is refused as media", _wrong(lambda: _refuses(kind))


def _without_data(kind: GuardedKind, part_type: str) -> None:
    if kind.parse_part(part_type, None).has_data:
        raise PluginError("its item has data all the same")


def _refuses(kind: GuardedKind) -> None:
    try:
        for item in kind.split([object()]):
            kind.digest(item.sources)
            kind.probe(item.sources)
            kind.load(item.sources)
    except MediaError as error:
        if "a mistake in the plugin" in str(error):
            raise
        return
    raise PluginError("it was taken")


def _wrong(check: Callable[[], object]) -> str | None:
    try:
        check()
    except SensoriumError as error:
        return str(error)
    except Exception as error:
        return f"it raised {type(error).__name__}: {error}"
    return None
