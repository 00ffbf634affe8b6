"""The catalogue of known plugins, where the umbrella distribution is installed.

It is data: which distribution serves which kind and which architecture, and the command
that installs it. Without it, messages say less.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sensorium.logger import logger

_PACKAGE = "sensorium_catalogue"


@dataclass(frozen=True, slots=True)
class Entry:
    """The distribution that serves a name, and the command that installs it."""

    distribution: str
    install: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Kinds and architectures with a known distribution."""

    kinds: Mapping[str, Entry] = field(default_factory=dict)
    architectures: Mapping[str, Entry] = field(default_factory=dict)


def read_catalogue() -> Catalogue:
    """Reads the installed catalogue, without importing its package; empty if there is none."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "catalogue.toml"
        if file.is_file():
            return parse_catalogue(file.read_text(encoding="utf-8"))
    return Catalogue()


def parse_catalogue(text: str) -> Catalogue:
    """Reads a catalogue's text; a damaged one counts as empty, since only messages need it."""
    try:
        tables = tomllib.loads(text)
        kinds, architectures = (
            {name: Entry(**entry) for name, entry in tables[table].items()}
            for table in ("kinds", "architectures")
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError):
        logger.warning("The catalogue of known plugins can't be read and is left out.")
        return Catalogue()
    return Catalogue(kinds, architectures)
