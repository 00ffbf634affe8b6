"""Reads numbers and names from a checkpoint's JSON; an error names the entry and what is
allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.errors import ConfigError


def image_processor(processor: Mapping[str, Any]) -> Mapping[str, Any]:
    """The image processor's own entries.

    Published checkpoints hold them flat in ``preprocessor_config.json``; transformers 5 writes
    them as "image_processor" into ``processor_config.json``. The flat ones count first.
    """
    nested = processor.get("image_processor")
    return {**nested, **processor} if isinstance(nested, Mapping) else processor


class Section:
    """One mapping of a JSON file, and how messages name it.

    An entry that is missing or null takes the default: the published class's own.
    """

    def __init__(self, values: Mapping[str, Any], name: str) -> None:
        self.values = values
        self.name = name

    def sub(self, key: str) -> Section:
        """The mapping under ``key``, empty if there is none.

        Raises:
            ConfigError: something else stands there.
        """
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.name}: {key} is {value!r}; it must be an object.")
        return Section(value, f"{self.name}: {key}")

    def integer(self, key: str, default: int | None = None, *, at_least: int = 1) -> int:
        """An integer.

        Raises:
            ConfigError: another type, too small, or missing without a default.
        """
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise ConfigError(
                f"{self.name}: {key} is {value!r}; it must be an integer of at least {at_least}."
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0.

        Raises:
            ConfigError: another type, 0 or less, or missing without a default.
        """
        value = self._value(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            raise ConfigError(f"{self.name}: {key} is {value!r}; it must be a number above 0.")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string.

        Raises:
            ConfigError: another type, or missing without a default.
        """
        value = self._value(key, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self.name}: {key} is {value!r}; it must be a string.")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false.

        Raises:
            ConfigError: another type.
        """
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.name}: {key} is {value!r}; it must be true or false.")
        return value

    def require(self, key: str, *allowed: object) -> None:
        """An entry that, where it is given, must be one of what is built.

        Raises:
            ConfigError: it is another, by name.
        """
        value = self.values.get(key)
        if value is not None and value not in allowed:
            built = " or ".join(repr(entry) for entry in allowed)
            raise ConfigError(f"{self.name}: {key} is {value!r}; only {built} is built.")

    def _value(self, key: str, default: object) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"{self.name} has no {key}.")
        return value
