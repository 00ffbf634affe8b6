"""Options of the engine and of a request: ``mm_processor_kwargs``, divided among the adapters, and
``media_io_kwargs``, by which kinds read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sensorium.errors import ConfigError, RequestError
from sensorium.media.digest import Digest
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.kind import MediaKind

#: A kind's name, and the request's options for it → the kind that reads by them.
RemakeKind = Callable[[str, Mapping[str, Any]], MediaKind]


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """Every adapter's options for one request.

    Attributes:
        by_kind: kind → what its adapter's ``options`` returned.
        fingerprint: equal for equal options.
    """

    by_kind: Mapping[str, Mapping[str, Any]]
    fingerprint: bytes


class ProcessorOptions:
    """Lays a request's options over the engine's, and hands each adapter those it names.

    Raises:
        ConfigError: the engine's own options hold a key that no adapter understands, or a
            value out of range.
    """

    def __init__(
        self, adapters: Mapping[str, MediaAdapter], engine_kwargs: Mapping[str, Any]
    ) -> None:
        self._adapters = adapters
        self._engine_kwargs = engine_kwargs
        try:
            self._unchanged = self._resolve(engine_kwargs)
        except RequestError as error:
            raise ConfigError(str(error)) from error

    def resolve(self, kwargs: Mapping[str, Any]) -> ResolvedOptions:
        """The options of a request that gave ``kwargs``.

        Raises:
            RequestError: a key that no adapter understands, or a value out of range.
        """
        if not kwargs:
            return self._unchanged
        return self._resolve({**self._engine_kwargs, **kwargs})

    def _resolve(self, kwargs: Mapping[str, Any]) -> ResolvedOptions:
        allowed = sorted({name for a in self._adapters.values() for name in a.option_names})
        for key in kwargs:
            if key not in allowed:
                raise RequestError(
                    f"mm_processor_kwargs has {key!r}; "
                    + (f"allowed are {', '.join(allowed)}." if allowed else "none are allowed.")
                )
        by_kind: dict[str, Mapping[str, Any]] = {}
        digest = Digest("sensorium processor options")
        for kind, adapter in sorted(self._adapters.items()):
            own = {key: value for key, value in kwargs.items() if key in adapter.option_names}
            by_kind[kind] = adapter.options(own)
            digest.add(kind).add(by_kind[kind])
        return ResolvedOptions(by_kind, digest.digest())


class ReadingOptions:
    """Finds the kinds that read as a request wants.

    Args:
        kinds: by name, as the engine reads.
        remake: None: no request may say how media are read.
    """

    def __init__(self, kinds: Mapping[str, MediaKind], remake: RemakeKind | None) -> None:
        self._kinds = kinds
        self._remake = remake

    def resolve(self, kwargs: Mapping[str, Any]) -> Mapping[str, MediaKind]:
        """The kinds for a request that gave ``kwargs``, kind → options.

        Raises:
            RequestError: a kind that the model doesn't take, or options that the kind refuses.
            PluginError: the kind's mistake.
        """
        if not kwargs:
            return self._kinds
        if self._remake is None:
            raise RequestError("media_io_kwargs are not taken from requests here.")
        kinds = dict(self._kinds)
        for name, options in kwargs.items():
            if name not in kinds:
                taken = ", ".join(sorted(kinds)) or "no media"
                raise RequestError(
                    f"media_io_kwargs names {name[:64]!r}; this model takes {taken}."
                )
            if not isinstance(options, Mapping):
                raise RequestError(f"media_io_kwargs[{name!r}] must map options to values.")
            try:
                kinds[name] = self._remake(name, options)
            except ConfigError as error:
                raise RequestError(str(error)) from None
        return kinds
