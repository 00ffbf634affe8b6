"""The parsers of tool calls that are installed, by name.

A parser is an ``AnswerReader`` and comes by an entry point of the group ``sensorium.tool_parsers``,
ours as a stranger's. Only the one that the operator names is loaded.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from sensorium import ConfigError
from sensorium_server_openai.tools.reading import AnswerReader

GROUP = "sensorium.tool_parsers"


def parser_names() -> list[str]:
    """The names that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_parser(name: str) -> type[AnswerReader]:
    """The parser of this name.

    Raises:
        ConfigError: there is none, two distributions bring it, or it doesn't work.
    """
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise ConfigError(
            f"There is no tool parser {name!r}; installed are {', '.join(parser_names())}."
        )
    owners = sorted({_owner(point) for point in found})
    if len(owners) > 1:
        raise ConfigError(f"The tool parser {name!r} is brought by {' and by '.join(owners)}.")
    try:
        parser = found[0].load()
    except Exception as error:
        raise ConfigError(
            f"The tool parser {name!r} of {owners[0]} can't be imported: {error}"
        ) from error
    if not (isinstance(parser, type) and issubclass(parser, AnswerReader)):
        raise ConfigError(f"The tool parser {name!r} of {owners[0]} is no AnswerReader.")
    return parser


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"
