"""``Registry``: everything that the installed plugins bring, and the errors for what is missing.

Hooks are called when something is first asked for. A conflict or a failure is raised when
the thing itself is asked for, so that it takes nothing else down. One registry serves one
engine; it shares nothing with another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from sensorium.errors import ConfigError, MissingPluginError, PluginError
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.catalogue import Catalogue, Entry
from sensorium.plugins.claims import (
    Claims,
    check_own_claims,
    claims_of,
    dependent_claims,
    joined,
    primary_claims,
)
from sensorium.plugins.command import Command
from sensorium.plugins.encoder import EncoderSpec
from sensorium.plugins.family import ModelFamily
from sensorium.plugins.installed import InstalledPlugin, PluginStatus, canonical
from sensorium.plugins.kind import MediaKind
from sensorium.plugins.returns import RESERVED_COMMANDS

_SEE = "`sensorium plugins` lists what is installed."


class Registry:
    """All plugins of one engine or of one run of the command line."""

    def __init__(
        self,
        plugins: Sequence[InstalledPlugin],
        choices: Mapping[str, str],
        catalogue: Catalogue,
    ) -> None:
        self._plugins = tuple(plugins)
        self._choices = dict(choices)
        self._catalogue = catalogue
        Claims(self._choices)  # a misspelt choice is told at once

    # --- kinds ----------------------------------------------------------------------

    @property
    def kinds(self) -> Mapping[str, type[MediaKind]]:
        """Name → kind, those in conflict left out."""
        return {name: claimant.thing for name, claimant in self._claims.served("kind")}

    def kind(self, name: str) -> type[MediaKind]:
        """The kind with this name.

        Raises:
            PluginError: no plugin serves it, or several do, or the plugin that would failed.
        """
        claimant = self._claims.server(f"kind:{name}")
        if claimant is None:
            raise MissingPluginError(
                self._missing(
                    f"serves the kind {name!r}", self.kinds, self._catalogue.kinds.get(name)
                )
            )
        return claimant.thing  # type: ignore[no-any-return]

    def kind_of_part(self, part_type: str) -> type[MediaKind]:
        """The kind that answers to a chat part type.

        Raises:
            PluginError: no plugin does, or several do, or the plugin that would failed.
        """
        claimant = self._claims.server(f"part:{part_type}")
        if claimant is None:
            known = [name for name, _ in self._claims.served("part")]
            words = part_type.split("_")
            entries = [e for name, e in self._catalogue.kinds.items() if name in words]
            raise MissingPluginError(
                self._missing(
                    f"answers to the chat part type {part_type!r}",
                    known,
                    entries[0] if entries else None,
                )
            )
        return claimant.thing  # type: ignore[no-any-return]

    # --- models ---------------------------------------------------------------------

    @property
    def families(self) -> Mapping[str, ModelFamily]:
        """Architecture → family, those in conflict left out."""
        return {name: claimant.thing for name, claimant in self._claims.served("family")}

    def family(self, architecture: str) -> ModelFamily:
        """The family of this architecture.

        Raises:
            PluginError: no plugin serves it, or several do, or the plugin that would failed.
        """
        claimant = self._claims.server(f"family:{architecture}")
        if claimant is None:
            raise PluginError(
                self._missing(
                    f"serves the architecture {architecture!r}",
                    self.families,
                    self._catalogue.architectures.get(architecture),
                )
            )
        return claimant.thing  # type: ignore[no-any-return]

    def encoders(self, architecture: str) -> Mapping[str, EncoderSpec]:
        """Name → encoder, the family's and the adapters' own.

        One in conflict is left out, with the adapters that name it, unless the family
        itself claims it: then the checkpoint can't be read without a choice.

        Raises:
            PluginError: an encoder of the family is in conflict.
        """
        family = self.family(architecture)
        for spec in family.encoders:
            self._claims.server(f"encoder:{architecture}/{spec.name}")
        return {
            name.removeprefix(f"{architecture}/"): claimant.thing
            for name, claimant in self._claims.served("encoder")
            if name.startswith(f"{architecture}/")
        }

    def adapters(self, architecture: str) -> Mapping[str, type[MediaAdapter]]:
        """Kind → adapter, for every kind that this architecture can take.

        An adapter that can't work (in conflict, or without its kind or an encoder) is left out;
        ``adapter`` raises the reason.
        """
        usable = {}
        for name, claimant in self._claims.served("adapter"):
            of_architecture, _, kind = name.partition("/")
            if of_architecture == architecture and not self._obstacle(architecture, claimant.thing):
                usable[kind] = claimant.thing
        return usable

    def adapter(self, architecture: str, kind: str) -> type[MediaAdapter]:
        """How this architecture takes this kind.

        Raises:
            PluginError: it doesn't, with the cause.
        """
        self.kind(kind)
        claimant = self._claims.server(f"adapter:{architecture}/{kind}")
        if claimant is None:
            what = f"lets {architecture} take the kind {kind!r}"
            raise PluginError(self._missing(what, self.adapters(architecture), None))
        if obstacle := self._obstacle(architecture, claimant.thing):
            raise PluginError(obstacle)
        return claimant.thing  # type: ignore[no-any-return]

    # --- the rest -------------------------------------------------------------------

    @property
    def commands(self) -> Mapping[str, Command | PluginError]:
        """Name → subcommand, or the error of a name that several plugins claim.

        Calls no other hook, so that the command line's help imports no model.
        """
        return self._by_hook("command", "sensorium_commands", lambda c: (c.name, c))

    @property
    def assets(self) -> Mapping[str, ModuleType | PluginError]:
        """Kind → module with sample media, or the error of a kind that several claim.

        Calls no other hook.
        """
        return self._by_hook("assets", "sensorium_assets", lambda pair: pair)

    def embedded_model(self, name: str) -> Path | None:
        """The folder of a model that a distribution holds; None: nobody has one of this name.

        Calls no other hook.

        Raises:
            PluginError: several bring a model of this name.
        """
        models: Mapping[str, Path | PluginError] = self._by_hook(
            "model", "sensorium_models", lambda pair: pair
        )
        found = models.get(name)
        if isinstance(found, PluginError):
            raise found
        return found

    def missing_command(self, name: str) -> PluginError:
        """The error of a subcommand that no plugin brings."""
        return PluginError(
            self._missing(
                f"brings the command {name!r}", [*RESERVED_COMMANDS, *self.commands], None
            )
        )

    def missing_asset(self, kind: str) -> PluginError:
        """The error of a kind for which no plugin brings sample media."""
        entry = self._catalogue.kinds.get(kind)
        return PluginError(self._missing(f"brings assets of the kind {kind!r}", self.assets, entry))

    @property
    def statuses(self) -> tuple[PluginStatus, ...]:
        """Every plugin found, with what it brings or why it failed. Calls all hooks."""
        return tuple(
            PluginStatus(
                name=plugin.name,
                distribution=plugin.distribution,
                version=plugin.version,
                module=plugin.module,
                brings=tuple(claim for claim, _ in claims_of(plugin)),
                error=plugin.error,
                disabled=plugin.disabled,
            )
            for plugin in self._loaded
        )

    @property
    def conflicts(self) -> Mapping[str, str]:
        """Claim that several plugins make → the sentence that says so. Calls all hooks."""
        claims = self._claims.conflicts()
        models = self._by_hook("model", "sensorium_models", lambda pair: pair)
        by_noun = (("command", self.commands), ("assets", self.assets), ("model", models))
        for noun, things in by_noun:
            claims |= {f"{noun}:{n}": str(e) for n, e in things.items() if _is_error(e)}
        return claims

    def plugins_of(self, distribution: str) -> tuple[InstalledPlugin, ...]:
        """The plugins of one distribution. Calls all hooks.

        Raises:
            PluginError: it isn't installed, or brings none.
        """
        wanted = canonical(distribution)
        found = tuple(p for p in self._loaded if canonical(p.distribution) == wanted)
        if not found:
            raise PluginError(
                f"No plugin of a distribution {distribution!r} is installed (installed: "
                f"{_list({plugin.distribution for plugin in self._loaded})}). {_SEE}"
            )
        return found

    def owner_of(self, thing: object) -> str:
        """The distribution that brought a class, a family or an encoder (or an instance)."""
        owners = self._owners
        for candidate in (thing, type(thing)):
            if id(candidate) in owners:
                return owners[id(candidate)]
        raise KeyError(f"no plugin brought this {type(thing).__name__}")

    def options_of(
        self, thing: object, plugin_options: Mapping[str, Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """The entry of ``plugin_options`` for the distribution that brought ``thing``; {} if there
        is none."""
        owner = canonical(self.owner_of(thing))
        for distribution, options in plugin_options.items():
            if canonical(distribution) == owner:
                return options
        return {}

    def check_plugin_options(self, plugin_options: Mapping[str, Mapping[str, Any]]) -> None:
        """Checks that every entry is for a plugin that works.

        Raises:
            ConfigError: it isn't installed, or it failed.
        """
        for distribution in plugin_options:
            named = [
                plugin
                for plugin in self._loaded
                if canonical(plugin.distribution) == canonical(distribution)
            ]
            if any(plugin.error is None for plugin in named):
                continue
            if named:
                raise ConfigError(
                    f"plugin_options has an entry for {distribution}, whose plugin failed: "
                    f"{named[0].error}."
                )
            installed = joined(sorted({plugin.distribution for plugin in self._loaded}))
            raise ConfigError(
                f"plugin_options has an entry for {distribution!r}; installed are {installed}."
            )

    # --- inside ---------------------------------------------------------------------

    @cached_property
    def _loaded(self) -> tuple[InstalledPlugin, ...]:
        for plugin in self._plugins:
            plugin.load_all()
            check_own_claims(plugin)
        return self._plugins

    @cached_property
    def _claims(self) -> Claims:
        """Enters all claims. A plugin that loses a claim also loses what belongs to it: the kind's
        part types, the adapter's or family's encoders."""
        claims = Claims(self._choices)
        for plugin in self._loaded:
            for claim, thing in primary_claims(plugin):
                claims.add(claim, plugin, thing)
        for claim, claimant in list(claims.all_standing()):
            for dependent, thing in dependent_claims(claim, claimant.thing):
                claims.add(dependent, claimant.plugin, thing)
        claims.check_choices([plugin for plugin in self._loaded if plugin.error])
        return claims

    @cached_property
    def _owners(self) -> Mapping[int, str]:
        owners: dict[int, str] = {}
        for _, claimant in self._claims.all_standing():
            owners.setdefault(id(claimant.thing), claimant.plugin.distribution)
        return owners

    def _obstacle(self, architecture: str, adapter: type[MediaAdapter]) -> str | None:
        """Why an adapter without a rival still can't work; None: it can."""
        try:
            self.kind(adapter.kind)
            for name in adapter.encoders:
                if self._claims.server(f"encoder:{architecture}/{name}") is None:
                    return (
                        f"The adapter {adapter.__name__} of {self.owner_of(adapter)} names the "
                        f"encoder {name!r}, which no installed plugin registers for "
                        f"{architecture}. {_SEE}"
                    )
        except PluginError as error:
            return str(error)
        return None

    def _by_hook(
        self, noun: str, hook: str, named: Callable[[Any], tuple[str, Any]]
    ) -> dict[str, Any]:
        claims = Claims({})
        for plugin in self._plugins:
            for brought in plugin.brings(hook):
                name, thing = named(brought)
                claims.add(f"{noun}:{name}", plugin, thing)
        found = {name: claimant.thing for name, claimant in claims.served(noun)}
        for claim, sentence in claims.conflicts().items():
            found[claim.removeprefix(f"{noun}:")] = PluginError(sentence)
        return found

    def _missing(self, what: str, known: Iterable[str], entry: Entry | None) -> str:
        """The error for something that no plugin serves.

        Args:
            what: what no plugin does.
            known: the names for which one does.
            entry: the catalogue's entry for it.
        """
        sentences = [f"No installed plugin {what} (known: {_list(known)})."]
        blamed = self._known_server(entry) if entry else None
        failed = [plugin for plugin in self._plugins if plugin.error]
        if entry and blamed is None:
            sentences.append(f"{entry.distribution} does: {entry.install}.")
        elif entry and blamed and blamed.error:
            failed = [blamed]
        elif entry and blamed:
            sentences.append(
                f"{entry.distribution} does, but not in the installed version {blamed.version}."
            )
        if failed:
            causes = "; ".join(f"{plugin.name}: {plugin.error}" for plugin in failed)
            who = "The plugin that would" if failed == [blamed] else "A plugin that might"
            sentences.append(f"{who} failed: {causes}.")
        if off := [plugin.name for plugin in self._plugins if plugin.disabled]:
            sentences.append(f"Switched off (disabled_plugins): {_list(off)}.")
        return " ".join([*sentences, _SEE])

    def _known_server(self, entry: Entry) -> InstalledPlugin | None:
        """The installed plugin of the distribution that the catalogue names, a failed first."""
        named = [
            plugin
            for plugin in self._plugins
            if canonical(plugin.distribution) == canonical(entry.distribution)
        ]
        return min(named, key=lambda plugin: plugin.error is None, default=None)


def _is_error(thing: object) -> bool:
    return isinstance(thing, PluginError)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
