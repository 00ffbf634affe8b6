"""``sensorium serve MODEL``: the command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sensorium import ConfigError
from sensorium.config import EngineConfig
from sensorium_server_openai.command.flags import ALL, FLAGS, Flag
from sensorium_server_openai.command.settings import gather, unknown_flag

_PLAIN = (bool, int, float, str)
_ENGINE_DEFAULTS = {field.name: field.default for field in fields(EngineConfig)}

HELP = "serve a model over HTTP, as OpenAI's API"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags, by topic."""
    parser.epilog = (
        "Each flag is also a key of --config and a variable SENSORIUM_SERVE_<FLAG>; the command "
        "line goes before the variable, the variable before the file."
    )
    parser.usage = "%(prog)s MODEL [flags]"
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a folder, a hub name or an embedded model's name"
    )
    parser.add_argument("--config", metavar="FILE", help="flags and their values as YAML")
    for heading, flags in FLAGS.items():
        group = parser.add_argument_group(heading)
        for flag in flags:
            _declare(group, flag)
    parser.allow_abbrev = False
    _answer_unknown_flags(parser)


def _declare(group: argparse._ArgumentGroup, flag: Flag) -> None:
    options: dict[str, Any] = {
        "dest": "flag_" + flag.name.replace("-", "_"),
        "help": (flag.help + _default_of(flag)).replace("%", "%%"),
        "default": None,
    }
    if flag.read is None:
        options |= {"action": argparse.BooleanOptionalAction}
    else:
        options["metavar"] = flag.shown_value
        options["action"] = _Several if flag.repeats else _Once
        if flag.repeats:
            options["nargs"] = "*" if flag.may_be_bare else "+"
    group.add_argument(f"--{flag.name}", **options)


def _default_of(flag: Flag) -> str:
    """The engine's own default, where the flag's text doesn't tell it and it is worth a word."""
    if flag.goes_to != "engine" or "default" in flag.help:
        return ""
    found = _ENGINE_DEFAULTS.get(flag.target)
    if found is None or found is False or found == "" or not isinstance(found, _PLAIN):
        return ""
    return f" (default: {'yes' if found is True else found})"


class _Once(argparse.Action):
    """Reads a flag's value; what can't be read is a ``ConfigError``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(values, str)
        setattr(namespace, self.dest, _flag_of(self).from_text(values))


class _Several(argparse.Action):
    """As ``_Once``, added to what was given before."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(values, list)
        before = getattr(namespace, self.dest) or []
        flag = _flag_of(self)
        if not values or before is True:  # bare: all there are
            setattr(namespace, self.dest, True)
            return
        setattr(namespace, self.dest, [*before, *(flag.from_text(value) for value in values)])


def _flag_of(action: argparse.Action) -> Flag:
    return ALL[action.option_strings[0].removeprefix("--")]


def _answer_unknown_flags(parser: argparse.ArgumentParser) -> None:
    """An unknown flag is answered with the nearest that we have, which argparse doesn't do."""
    parse = parser.parse_known_args

    def parse_all(args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        given = sys.argv[1:] if args is None else args
        namespace, rest = parse([_as_declared(argument) for argument in given], namespace)
        for argument in rest:
            if argument.startswith("-"):
                raise unknown_flag(argument.lstrip("-").partition("=")[0])
            raise ConfigError(
                f"{argument!r} belongs to no flag, and there is one MODEL. Switches have no value; "
                "--no-SWITCH turns one off."
            )
        return namespace, rest

    parser.parse_known_args = parse_all  # type: ignore[method-assign, assignment]


def _as_declared(argument: str) -> str:
    """A flag as it is declared: ``--max_model_len=1`` has dashes, ``--web=false`` is ``--no-web``.

    Both are written in launch scripts.
    """
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    name = name.replace("_", "-")
    flag = ALL.get(name)
    if equals and flag is not None and flag.read is None:
        return f"--{name}" if flag.from_text(value) else f"--no-{name}"
    return f"--{name}{equals}{value}"


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or Ctrl-C; returns the exit status.

    Raises:
        ConfigError, PluginError: what can't work, before anything is served.
    """
    settings = gather(arguments, os.environ)
    from sensorium_server_openai.command.life import serve

    return serve(settings, say=lambda text: print(text, file=sys.stderr, flush=True))
