"""The one logger. Importing Sensorium configures nothing.

``SENSORIUM_LOG_LEVEL`` (DEBUG, INFO, …) sets its level when an engine starts or the command
line runs; the application adds handlers (the command line adds one of its own).
"""

from __future__ import annotations

import logging
import os

from sensorium.errors import ConfigError

logger = logging.getLogger("sensorium")


def apply_log_level() -> None:
    """Sets the level that ``SENSORIUM_LOG_LEVEL`` names, if it is set.

    Raises:
        ConfigError: it names no level.
    """
    name = os.environ.get("SENSORIUM_LOG_LEVEL")
    if not name:
        return
    level = logging.getLevelNamesMapping().get(name.upper())
    if level is None:
        allowed = ", ".join(logging.getLevelNamesMapping())
        raise ConfigError(f"SENSORIUM_LOG_LEVEL is {name!r}; allowed are {allowed}.")
    logger.setLevel(level)
