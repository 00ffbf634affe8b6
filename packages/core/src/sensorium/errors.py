"""Every exception Sensorium raises on purpose.

    SensoriumError
    ├── ConfigError          an option, checkpoint or environment that can't work (also ValueError)
    ├── PluginError          a plugin that is missing, broken or in conflict with another
    ├── RequestError         the caller's fault: HTTP 4xx (also ValueError)
    │   ├── MediaError       media that can't be read, or isn't what its kind accepts
    │   │   └── FetchError   the host that an item's URL names fails to deliver it: HTTP 424
    │   ├── LimitError       more, longer or larger than allowed
    │   ├── CacheMissError   an item given by uuid alone that no cache holds
    │   └── UnsupportedError a documented feature that this build doesn't have (yet)
    └── EngineError          our fault: HTTP 5xx
        ├── EngineClosedError   the engine was closed before or while the request ran
        ├── EngineDeadError     the engine stopped on an internal error
        └── OverloadedError     the engine holds as many requests as it may: HTTP 429 or 503

A message says what was given and what is allowed. It never holds a memory address, a
traceback or a decoder library's own text, so it may be shown to a remote caller.
"""

from __future__ import annotations


class SensoriumError(Exception):
    """Base of all exceptions that Sensorium raises on purpose."""


class ConfigError(SensoriumError, ValueError):
    """An option, a checkpoint or an environment that can't work."""


class PluginError(SensoriumError):
    """A plugin that is missing, broken or in conflict with another."""


class MissingPluginError(PluginError):
    """A kind or a part that a caller names and no installed plugin serves."""


class RequestError(SensoriumError, ValueError):
    """The caller's fault; the engine and all other requests go on."""


class MediaError(RequestError):
    """Media that can't be read, or isn't what its kind accepts."""


class FetchError(MediaError):
    """The host that an item's URL names can't be reached or doesn't deliver it."""


class LimitError(RequestError):
    """More, longer or larger than allowed."""


class UnsupportedError(RequestError):
    """A documented feature that this build doesn't have; the message names it."""


class CacheMissError(RequestError):
    """An item given by uuid alone that no cache holds.

    Attributes:
        retryable: whether sending the same request with its media would succeed because
            the entry left the cache between lookup and use.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


def cache_miss(kind: str, index: int, uuid: str | None) -> CacheMissError:
    """The error of an item that was given by its uuid alone, the same in frontend and engine."""
    return CacheMissError(f"cache miss for {kind} at index {index}, uuid {uuid}: send its data.")


class EngineError(SensoriumError, RuntimeError):
    """Our fault, not the caller's."""


class EngineClosedError(EngineError):
    """The engine was closed before or while the request ran."""


class OverloadedError(EngineError):
    """The engine holds as many requests as ``max_queued_requests`` allows; this one was not begun.

    Attributes:
        retry_after_s: a hint when a place may be free, in seconds.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineDeadError(EngineError):
    """The engine stopped on an internal error, or its process died.

    An engine in a process of its own is started again; one in a thread is not.
    """


class Failure(str):
    """A sentence that ends one request, and the class of the error that its caller gets for it.

    A plain string in its place stands for an ``EngineError``.
    """

    __slots__ = ("error_class",)
    error_class: str

    def __new__(cls, sentence: str, error_class: str = EngineError.__name__) -> Failure:
        made = super().__new__(cls, sentence)
        made.error_class = error_class
        return made

    @classmethod
    def of(cls, error: SensoriumError) -> Failure:
        """An error's message and class."""
        return cls(str(error), type(error).__name__)


def named_error(name: str, sentence: str, *, retryable: bool = False) -> SensoriumError | None:
    """The error of a class of this module by its name, with its sentence; None: there is none."""
    if name == CacheMissError.__name__:
        return CacheMissError(sentence, retryable=retryable)
    kind = globals().get(name)
    if isinstance(kind, type) and issubclass(kind, SensoriumError):
        return kind(sentence)
    return None
