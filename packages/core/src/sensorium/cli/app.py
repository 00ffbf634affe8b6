"""``sensorium COMMAND``: finds the subcommand, runs it, and reports errors as one sentence.

``plugins`` is core's own subcommand; all others come from plugins. Nothing here knows a
model.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

from sensorium.cli.checking import check_distribution
from sensorium.cli.listing import list_plugins
from sensorium.errors import ConfigError, PluginError, SensoriumError
from sensorium.logger import apply_log_level, logger
from sensorium.plugins.command import Command
from sensorium.plugins.discovery import discover
from sensorium.plugins.failure import PluginFailure, attempt, describe
from sensorium.plugins.registry import Registry

_INTERRUPTED = 130  # what shells report for Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status.

    0: done; 1: a ``SensoriumError``, printed as one sentence; 2: wrong arguments; 130:
    interrupted; a subcommand may return others.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    handler = _add_handler()
    try:
        apply_log_level()
        return _run(arguments, discover())
    except SensoriumError as error:
        print(f"sensorium: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sensorium: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except SystemExit as stop:  # argparse's --help and usage errors
        return stop.code if isinstance(stop.code, int) else 0
    finally:
        logger.removeHandler(handler)


def _run(arguments: list[str], registry: Registry) -> int:
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    commands = {"plugins": _plugins_command(registry), **registry.commands}
    chosen = commands.get(name) if name is not None else None
    if name is not None and chosen is None:
        raise registry.missing_command(name)
    if isinstance(chosen, PluginError):
        raise chosen
    parser = _parser(commands, chosen)
    namespace = parser.parse_args(arguments)
    assert chosen is not None, "argparse lets no call without a command through"
    return _ran(chosen, namespace)


def _ran(command: Command, namespace: argparse.Namespace) -> int:
    """Runs a command; any exception but our own errors, Ctrl-C and an exit status is reported as
    its bug."""
    try:
        status = command.run(namespace)
    except (SensoriumError, KeyboardInterrupt):
        raise
    except SystemExit as stop:
        status = stop.code if stop.code is not None else 0  # type: ignore[assignment]
    except BaseException as error:
        logger.debug("the command %s failed", command.name, exc_info=True)
        raise PluginError(f"The command {command.name!r} failed: {describe(error)}.") from error
    if not isinstance(status, int):
        raise PluginError(
            f"The command {command.name!r} returned {status!r}; it must be an exit status."
        )
    return status


def _parser(
    commands: dict[str, Command | PluginError], chosen: Command | None
) -> argparse.ArgumentParser:
    """The parser; only the chosen command's options are declared, the others give their help."""
    parser = argparse.ArgumentParser(
        prog="sensorium", description="A multimodal inference engine for language models."
    )
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in sorted(commands):
        command = commands[name]
        if isinstance(command, PluginError):
            subparsers.add_parser(name, help="(in conflict; see `sensorium plugins`)")
            continue
        text = command.help.replace("%", "%%")  # argparse would take it for a format
        subparser = subparsers.add_parser(name, help=text, description=text)
        if command is chosen:
            try:
                attempt("declaring its options", partial(command.add_arguments, subparser))
            except PluginFailure as failure:
                raise PluginError(f"The command {name!r} doesn't work: {failure}.") from failure
    return parser


def _plugins_command(registry: Registry) -> Command:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "action", nargs="?", choices=["check"], help="check one of them without a model"
        )
        parser.add_argument("distribution", nargs="?", help="which, for check")

    def run(arguments: argparse.Namespace) -> int:
        if arguments.action is None:
            print("\n".join(list_plugins(registry)))
            return 0
        if arguments.distribution is None:
            raise ConfigError("`sensorium plugins check` needs the name of a distribution.")
        results = list(check_distribution(registry, arguments.distribution))
        for what, wrong in results:
            print(f"ok      {what}" if wrong is None else f"FAILED  {what}: {wrong}")
        return 1 if any(wrong is not None for _, wrong in results) else 0

    return Command(
        name="plugins",
        help="list the installed plugins, what each brings, what failed and why; or check one",
        add_arguments=add_arguments,
        run=run,
    )


def _version() -> str:
    return f"sensorium {version('sensorium-core')}"


def _add_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    return handler
