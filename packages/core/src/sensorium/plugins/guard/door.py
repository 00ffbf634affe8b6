"""``Door``: calls one plugin object's methods, and decides whose fault a failure is.

These pass unchanged: errors of ``sensorium.errors``, the user's Ctrl-C, cancellation; and where the
engine's device is used, a broken device and one that is out of memory. Everything else,
``SystemExit`` included, becomes an error of ``sensorium.errors``.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sensorium.errors import ConfigError, MediaError, PluginError, SensoriumError
from sensorium.logger import logger
from sensorium.plugins.failure import describe

T = TypeVar("T")

#: Exceptions that mistakes in code cause more often than damaged media do.
MISTAKES = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError, ImportError)


class WrongReturnError(Exception):
    """What is wrong with what a plugin returned, as the end of a sentence."""


class Door:
    """Calls the methods of one plugin object.

    Args:
        distribution: the distribution that brought the object.
        owner: prefix of the method's name in messages, such as its class and a dot.
        on_device: the methods compute on the engine's device, and whoever calls them answers for
            its failures. Elsewhere a plugin has no business there, and such a failure is its own.
    """

    __slots__ = ("_distribution", "_on_device", "_owner", "_told")

    def __init__(self, distribution: str, owner: str, *, on_device: bool = False) -> None:
        self._distribution = distribution
        self._owner = owner
        self._on_device = on_device
        self._told: set[tuple[str, type]] = set()

    def call(
        self, name: str, method: Callable[..., Any], *args: Any, check: Callable[[Any], T]
    ) -> T:
        """What ``check`` makes of ``method(*args)``.

        Raises:
            PluginError: a foreign exception, or a result that ``check`` refuses.
            SensoriumError: as the plugin raised it, a ``PluginError`` with its name in front.
        """
        try:
            return check(method(*args))
        except WrongReturnError as wrong:
            raise self.wrong(name, wrong) from None
        except PluginError as error:
            raise PluginError(f"{self._at(name)}: {error}") from error
        except BaseException as error:
            if self._passes(error):
                raise
            raise self.mistake(name, error) from error

    def read(
        self,
        kind: str,
        name: str,
        method: Callable[..., Any],
        *args: Any,
        check: Callable[[Any], T],
    ) -> T:
        """As ``call``, for a method that reads a caller's media: an exception is blamed on the
        media, unless it isn't an ``Exception`` at all.

        Raises:
            MediaError: a foreign exception; the message quotes none of its text.
            PluginError: one that isn't an ``Exception``, or a result that ``check`` refuses.
            SensoriumError: as the plugin raised it, a ``PluginError`` with its name in front.
        """
        try:
            return check(method(*args))
        except WrongReturnError as wrong:
            raise self.wrong(name, wrong) from None
        except PluginError as error:
            raise PluginError(f"{self._at(name)}: {error}") from error
        except BaseException as error:
            if self._passes(error):
                raise
            if not isinstance(error, Exception):
                raise self.mistake(name, error) from error
            raise self._unreadable(kind, name, error) from error

    def begin(
        self, name: str, method: Callable[..., Any], *args: Any, check: Callable[[Any], T]
    ) -> T:
        """As ``call``, while an engine starts: the message has the exception's own text.

        Raises:
            ConfigError: as the plugin raised it.
            PluginError: everything else.
        """
        try:
            return check(method(*args))
        except ConfigError:
            raise
        except WrongReturnError as wrong:
            raise self.wrong(name, wrong) from None
        except PluginError as error:
            raise PluginError(f"{self._at(name)}: {error}") from error
        except BaseException as error:
            if passes(error) and not isinstance(error, SensoriumError):
                raise
            logger.debug("%s failed", self._at(name), exc_info=error)
            raise PluginError(f"{self._at(name)} raised {describe(error)}.") from error

    def wrong(self, name: str, wrong: WrongReturnError) -> PluginError:
        """The error of a result that the interface doesn't allow."""
        return PluginError(f"{self._at(name)} returned {wrong}: a mistake in that plugin.")

    def mistake(self, name: str, error: BaseException) -> PluginError:
        """The error of a foreign exception; its traceback is logged once."""
        self._tell(name, error)
        return PluginError(
            f"{self._at(name)} raised {type(error).__name__}: a mistake in that plugin."
        )

    def _passes(self, error: BaseException) -> bool:
        return passes(error) and (self._on_device or not of_device(error))

    def _unreadable(self, kind: str, name: str, error: Exception) -> MediaError:
        if isinstance(error, MISTAKES) or of_device(error):
            self._tell(name, error)
            return MediaError(
                f"it can't be read as {kind}: damaged, not supported, or a mistake in the plugin "
                f"({self._at(name)} raised {type(error).__name__})."
            )
        logger.debug("%s failed", self._at(name), exc_info=error)
        return MediaError(f"it can't be read as {kind}: damaged, or not supported.")

    def _tell(self, name: str, error: BaseException) -> None:
        """Logs a traceback, the first of each call and type as a warning."""
        known = (name, type(error)) in self._told
        self._told.add((name, type(error)))
        log = logger.debug if known else logger.warning
        log("%s raised %s", self._at(name), type(error).__name__, exc_info=error)

    def _at(self, name: str) -> str:
        return f"{self._owner}{name} of {self._distribution}"


def passes(error: BaseException) -> bool:
    """Whether an exception passes unchanged.

    The user's Ctrl-C can only be raised in the main thread, and only where it isn't ignored;
    cancellation only in a task that is being cancelled. Anywhere else the plugin raised the
    exception itself.
    """
    if isinstance(error, SensoriumError):
        return True
    if isinstance(error, KeyboardInterrupt):
        listens = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        return listens and threading.current_thread() is threading.main_thread()
    if isinstance(error, asyncio.CancelledError):
        return _is_being_cancelled()
    return of_device(error)


def of_device(error: BaseException) -> bool:
    """Whether a device has failed, or has too little memory."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError))


def inner_of(thing: Any) -> Any:
    """The object inside a wrapper; any other object unchanged."""
    return getattr(thing, "inner", thing)


def class_of(thing: object) -> str:
    """The full name of a plugin object's class, whether it is wrapped or not."""
    cls = type(inner_of(thing))
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_being_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0
