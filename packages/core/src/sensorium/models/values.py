"""Values of ``config.json``, checked. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.errors import ConfigError


def integer(values: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """An integer above 0; ``default`` where there is none or null.

    Raises:
        ConfigError: something else.
    """
    value = values.get(name)
    value = default if value is None else value
    if value is None:
        raise ConfigError(f"config.json has no {name}.")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"config.json has {name} {value!r}; it must be an integer above 0.")
    return value


def number(values: Mapping[str, Any], name: str) -> float:
    """A number above 0.

    Raises:
        ConfigError: something else, or nothing.
    """
    value = values.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"config.json has {name} {value!r}; it must be a number above 0.")
    return float(value)


def number_or_none(values: Mapping[str, Any], name: str) -> float | None:
    """A number above 0; None where there is none or null.

    Raises:
        ConfigError: something else.
    """
    return None if values.get(name) is None else number(values, name)
