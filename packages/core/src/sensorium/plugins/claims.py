"""Claims: which plugin serves which name. One plugin may hold each claim.

A claim is written as the user writes it in ``plugin_choices``: "kind:NAME",
"family:ARCHITECTURE", "adapter:ARCHITECTURE/KIND", "encoder:ARCHITECTURE/NAME". Core has
four more of its own ("part:TYPE", "command:NAME", "assets:KIND", "model:NAME"), which
``plugin_choices`` can't name. Two claimants are an error for requests and engines that need the
claim, and for no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium.errors import ConfigError, PluginError
from sensorium.plugins.failure import PluginFailure
from sensorium.plugins.installed import InstalledPlugin, canonical

#: The nouns that ``plugin_choices`` takes, with their spelling.
CHOOSABLE = {
    "kind": "kind:NAME",
    "family": "family:ARCHITECTURE",
    "adapter": "adapter:ARCHITECTURE/KIND",
    "encoder": "encoder:ARCHITECTURE/NAME",
}


@dataclass(frozen=True, slots=True)
class Claimant:
    """A plugin and the object with which it serves a claim."""

    plugin: InstalledPlugin
    thing: Any


class Claims:
    """All claims of all plugins that work, with the user's choices applied."""

    def __init__(self, choices: Mapping[str, str]) -> None:
        self._choices = choices
        self._claimants: dict[str, list[Claimant]] = {}
        for claim, distribution in choices.items():
            _check_choice(claim, distribution)

    def add(self, claim: str, plugin: InstalledPlugin, thing: Any) -> None:
        """Enters one claim. Two adapters of one plugin may bring the same encoder."""
        claimants = self._claimants.setdefault(claim, [])
        if not any(c.plugin is plugin and c.thing is thing for c in claimants):
            claimants.append(Claimant(plugin, thing))

    def standing(self, claim: str) -> list[Claimant]:
        """Its claimants after the user's choice: none, one, or several in conflict."""
        claimants = self._claimants.get(claim, [])
        choice = self._choices.get(claim)
        if choice is None:
            return claimants
        return [claimant for claimant in claimants if _is_named(choice, claimant.plugin)]

    def server(self, claim: str) -> Claimant | None:
        """The one that serves it; None: no plugin does.

        Raises:
            PluginError: several claim it and the user chose none.
        """
        standing = self.standing(claim)
        if len(standing) > 1:
            raise PluginError(self._conflict(claim, standing))
        return standing[0] if standing else None

    def served(self, noun: str) -> Iterator[tuple[str, Claimant]]:
        """What follows "noun:" in each claim that exactly one serves, and who serves it."""
        for claim in self._claimants:
            if claim.startswith(f"{noun}:") and len(standing := self.standing(claim)) == 1:
                yield claim.removeprefix(f"{noun}:"), standing[0]

    def all_standing(self) -> Iterator[tuple[str, Claimant]]:
        """Every claim with all its claimants, those in conflict included."""
        for claim in self._claimants:
            for claimant in self.standing(claim):
                yield claim, claimant

    def conflicts(self) -> dict[str, str]:
        """Claim in conflict → the sentence that says so."""
        several = {claim: self.standing(claim) for claim in self._claimants}
        return {
            claim: self._conflict(claim, standing)
            for claim, standing in several.items()
            if len(standing) > 1
        }

    def check_choices(self, failed: Sequence[InstalledPlugin]) -> None:
        """Checks that every choice can be made.

        Raises:
            ConfigError: no plugin serves the claim, or the chosen one doesn't.
        """
        for claim, choice in self._choices.items():
            if self.standing(claim):
                continue
            for plugin in failed:
                if _is_named(choice, plugin):
                    raise ConfigError(
                        f"plugin_choices gives {claim!r} to {choice!r}, whose plugin failed: "
                        f"{plugin.error}."
                    )
            claimants = self._claimants.get(claim, [])
            owners = joined([claimant.plugin.distribution for claimant in claimants])
            raise ConfigError(
                f"plugin_choices gives {claim!r} to {choice!r}, which doesn't serve it; served "
                f"by: {owners or 'no installed plugin'} (`sensorium plugins` lists them)."
            )

    @staticmethod
    def _conflict(claim: str, standing: list[Claimant]) -> str:
        owners = [claimant.plugin.distribution for claimant in standing]
        if len(set(owners)) < len(owners):
            owners = [claimant.plugin.name for claimant in standing]
        sentence = f"{claim} is claimed by {joined(owners)}"
        if claim.split(":")[0] not in CHOOSABLE:
            return f"{sentence}; uninstall all but one."
        return f"{sentence}; choose one: plugin_choices={{{claim!r}: {owners[0]!r}}}."


def primary_claims(plugin: InstalledPlugin) -> Iterator[tuple[str, Any]]:
    """A plugin's claims that depend on no other claim's outcome, with what serves them."""
    for kind in plugin.brings("sensorium_media_kinds"):
        yield f"kind:{kind.name}", kind
    for family in plugin.brings("sensorium_model_families"):
        for architecture in family.architectures:
            yield f"family:{architecture}", family
    for adapter in plugin.brings("sensorium_media_adapters"):
        for architecture in adapter.architectures:
            yield f"adapter:{architecture}/{adapter.kind}", adapter


def dependent_claims(claim: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """The claims that come with a primary one, and fall with it."""
    noun, _, name = claim.partition(":")
    architecture = name.partition("/")[0]
    if noun == "kind":
        yield from ((f"part:{part_type}", thing) for part_type in thing.part_types)
    if noun == "family":
        yield from ((f"encoder:{architecture}/{spec.name}", spec) for spec in thing.encoders)
    if noun == "adapter":
        yield from ((f"encoder:{architecture}/{spec.name}", spec) for spec in thing.own_encoders)


def claims_of(plugin: InstalledPlugin) -> Iterator[tuple[str, Any]]:
    """All claims that a plugin makes, with what serves them."""
    for claim, thing in primary_claims(plugin):
        yield claim, thing
        yield from dependent_claims(claim, thing)
    yield from ((f"command:{c.name}", c) for c in plugin.brings("sensorium_commands"))
    yield from ((f"assets:{kind}", module) for kind, module in plugin.brings("sensorium_assets"))
    yield from ((f"model:{name}", folder) for name, folder in plugin.brings("sensorium_models"))


def check_own_claims(plugin: InstalledPlugin) -> None:
    """Marks a plugin as failed if it claims one name twice."""
    seen: dict[str, Any] = {}
    for claim, thing in claims_of(plugin):
        if seen.setdefault(claim, thing) is not thing:
            plugin.fail(PluginFailure(f"it claims {claim} twice"))
            return


def _check_choice(claim: object, distribution: object) -> None:
    noun, _, name = str(claim).partition(":")
    parts = name.split("/") if noun in ("adapter", "encoder") else [name]
    right_parts = len(parts) == (2 if noun in ("adapter", "encoder") else 1) and all(parts)
    if noun not in CHOOSABLE or not right_parts:
        raise ConfigError(
            f"plugin_choices has the claim {claim!r}; claims are {', '.join(CHOOSABLE.values())}."
        )
    if not isinstance(distribution, str):
        raise ConfigError(
            f"plugin_choices[{claim!r}] is {distribution!r}; it must be a distribution's name."
        )


def _is_named(choice: str, plugin: InstalledPlugin) -> bool:
    """A choice names the distribution, or, where it brings several plugins, one of them."""
    return choice == plugin.name or canonical(choice) == canonical(plugin.distribution)


def joined(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
