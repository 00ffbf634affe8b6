"""``PluginFailure``: any exception of a plugin's code, as one sentence that names what failed.

Knows nothing of hooks or entry points.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from sensorium.errors import PluginError
from sensorium.logger import logger

T = TypeVar("T")

_MAX_CAUSE_LENGTH = 400
_ADDRESS = re.compile(r"(?: at)? 0x[0-9a-fA-F]{4,}")
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+(?=[^\s/'\"])")


class PluginFailure(PluginError):
    """Why one plugin fails. The message doesn't name the plugin: its status does."""


def attempt(doing: str, call: Callable[[], T]) -> T:
    """Calls a plugin's code and returns what it returns.

    ``KeyboardInterrupt`` passes; everything else, ``SystemExit`` included, is the plugin's failure.

    Args:
        doing: what was being done, the beginning of the sentence.

    Raises:
        PluginFailure: ``call`` raised. The traceback is logged at DEBUG.
    """
    try:
        return call()
    except (KeyboardInterrupt, PluginFailure):
        raise
    except BaseException as error:
        logger.debug("%s raised", doing, exc_info=True)
        raise PluginFailure(f"{doing} raised {describe(error)}") from error


def describe(error: BaseException) -> str:
    """An exception in one line, without memory addresses and without folders of this machine."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception whose own __str__ is broken
        text = ""
    text = _FOLDERS.sub("", _ADDRESS.sub("", text))[:_MAX_CAUSE_LENGTH]
    name = type(error).__name__
    return f"{name}: {text}" if text else name
