"""``InstalledPlugin``: one plugin as found, whose hooks are called at most once each.

A hook is called when its result is first needed, so that finding plugins, and the command line's
help, import nothing heavy. A plugin that fails fails alone and whole: from then on it brings
nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import pluggy

from sensorium.plugins import hookspecs
from sensorium.plugins.failure import PluginFailure, attempt
from sensorium.plugins.hookspecs import API, PROJECT
from sensorium.plugins.returns import CHECKS

HOOKS = tuple(CHECKS)
_PREFIX = f"{PROJECT}_"


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """One plugin, as ``sensorium plugins`` prints it.

    Attributes:
        name: "distribution:entry point".
        distribution, version: where it comes from; no version for a plugin that an
            application handed over in-process.
        module: the entry point's value.
        brings: its claims ("kind:NAME", "family:ARCHITECTURE", …); () if it failed.
        error: why it failed, in one line; None: it works.
        disabled: the user switched it off.
    """

    name: str
    distribution: str
    version: str | None
    module: str
    brings: tuple[str, ...] = ()
    error: str | None = None
    disabled: bool = False


class InstalledPlugin:
    """One plugin.

    Attributes:
        name: "distribution:entry point".
        distribution, version, module: where it comes from.
        error: why it failed, in one line; None: nothing has failed so far.
        disabled: the user switched it off; it brings nothing, and nothing of it was imported.
    """

    def __init__(
        self,
        *,
        name: str,
        distribution: str,
        version: str | None,
        module: str,
        load: Callable[[], object] | None,
    ) -> None:
        """Imports the plugin with ``load`` and checks everything but its hooks' results.

        Args:
            load: None: it is switched off.
        """
        self.name = name
        self.distribution = distribution
        self.version = version
        self.module = module
        self.error: str | None = None
        self._calls: dict[str, list[Callable[[], object]]] = {}
        self._brought: dict[str, tuple[Any, ...]] = {}
        self.disabled = load is None
        if load is None:
            return
        try:
            plugin = attempt(f"importing {module}", load)
            attempt(f"reading {module}", partial(self._register, plugin))
        except PluginFailure as failure:
            self.fail(failure)

    def brings(self, hook: str) -> tuple[Any, ...]:
        """What its implementation of ``hook`` returned, checked; () if it failed or has none."""
        if hook not in self._brought and self.error is None:
            try:
                self._brought[hook] = self._call(hook)
            except PluginFailure as failure:
                self.fail(failure)
        return self._brought.get(hook, ())

    def load_all(self) -> None:
        """Calls every hook, so that a failure in any of them takes back all the others."""
        for hook in HOOKS:
            self.brings(hook)

    def fail(self, failure: PluginFailure) -> None:
        """Takes back everything it brought."""
        self.error = str(failure)
        self._brought.clear()

    def _call(self, hook: str) -> tuple[Any, ...]:
        brought: list[Any] = []
        for call in self._calls.get(hook, []):
            returned = attempt(f"its hook {hook}", call)
            try:
                brought += attempt("reading its result", partial(CHECKS[hook], returned))
            except PluginFailure as failure:
                raise PluginFailure(f"its hook {hook}: {failure}") from failure
        return tuple(brought)

    def _register(self, plugin: object) -> None:
        """Checks ``api`` and the hooks' spelling, and finds the implementations.

        Every plugin gets a pluggy manager of its own, so that a plugin refused half-way leaves
        nothing behind that affects another.
        """
        _check_api(plugin)
        _check_spelling(plugin)
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(plugin, self.name)
        except pluggy.PluginValidationError as error:
            raise PluginFailure(" ".join(str(error).split())) from error
        for caller in manager.get_hookcallers(plugin) or []:
            # pluggy's check_pending() looks for these too, but its message doesn't name the plugin.
            if not caller.has_spec():
                raise PluginFailure(_no_such_hook(caller.name))
            for implementation in caller.get_hookimpls():
                _check_plain(implementation)
                self._calls.setdefault(caller.name, []).append(implementation.function)


def _check_api(plugin: object) -> None:
    stated = getattr(plugin, "api", None)
    if stated is None:
        raise PluginFailure(f"it states no api; this sensorium-core serves api = {API}")
    if type(stated) is not int or stated != API:
        raise PluginFailure(f"it states api = {stated!r}; this sensorium-core serves api = {API}")


def _check_spelling(plugin: object) -> None:
    """Refuses functions that are named like a hook and would never be called."""
    for name in dir(plugin):
        if not name.startswith(_PREFIX):
            continue
        value = getattr(plugin, name)
        if isinstance(value, ModuleType):
            continue  # `import sensorium_something` inside the plugin
        if name not in HOOKS:
            raise PluginFailure(_no_such_hook(name))
        if not hasattr(value, f"{PROJECT}_impl"):
            raise PluginFailure(f"its {name} lacks the decorator @hookimpl")


def _check_plain(implementation: pluggy.HookImpl) -> None:
    for option in ("wrapper", "hookwrapper", "optionalhook", "tryfirst", "trylast"):
        if getattr(implementation, option, False):
            raise PluginFailure(
                f"its {implementation.function.__name__} is marked {option}; every "
                "implementation is called by itself, so that has no meaning here"
            )


def _no_such_hook(name: str) -> str:
    near = difflib.get_close_matches(name, HOOKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"hooks are {', '.join(HOOKS)}"
    return f"{name} is no hook; {hint}"


def canonical(distribution: str) -> str:
    """A distribution's name as packaging compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
