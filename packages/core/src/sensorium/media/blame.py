"""Who is at fault when a plugin's code raises something that isn't in the error tree.

Reading media is done on the caller's data: what goes wrong there is the media's fault, and is
told in our own words, since a decoder's text may hold addresses or paths. Planning and
processing work on sizes and arrays that were checked: what goes wrong there is a bug.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sensorium.errors import (
    LimitError,
    MediaError,
    PluginError,
    RequestError,
    SensoriumError,
    UnsupportedError,
)
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.kind import MediaKind

logger = logging.getLogger("sensorium.media")


@contextmanager
def kind_errors(kind: MediaKind, doing: str) -> Iterator[None]:
    """Turns a foreign exception into a ``MediaError``; the cause is logged at debug level."""
    try:
        yield
    except SensoriumError:
        raise
    except Exception:
        logger.debug("%s failed at %s", _class_name(kind), doing, exc_info=True)
        raise MediaError(f"it can't be read as {kind.name}: damaged, or not supported.") from None


@contextmanager
def plugin_errors(plugin: MediaAdapter | MediaKind, doing: str) -> Iterator[None]:
    """Turns a foreign exception into a ``PluginError`` that names the plugin's class."""
    try:
        yield
    except SensoriumError:
        raise
    except Exception as error:
        raise PluginError(
            f"{_class_name(plugin)} failed at {doing} with {type(error).__name__}: "
            "a mistake in the plugin that brings it."
        ) from error


def labelled(label: str, error: RequestError) -> RequestError:
    """The same kind of error with the item's name in front."""
    for cls in (LimitError, UnsupportedError, MediaError):
        if isinstance(error, cls):
            return cls(f"{label}: {error}")
    return RequestError(f"{label}: {error}")


def _class_name(plugin: MediaAdapter | MediaKind) -> str:
    return f"{type(plugin).__module__}.{type(plugin).__qualname__}"
