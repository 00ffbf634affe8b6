"""``GuardedKind``: a plugin's kind, as core calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensorium.plugins.guard import checks
from sensorium.plugins.guard.door import Door
from sensorium.plugins.kind import MediaKind
from sensorium.plugins.reader import close_readers
from sensorium.types import Loaded, MediaItem, MediaShape, Probe, Source


class GuardedKind(MediaKind):
    """Wraps one instance.

    Attributes:
        inner: it.
        distribution: who brought it.
    """

    def __init__(self, inner: MediaKind, distribution: str) -> None:
        self.inner = inner
        self.distribution = distribution
        for name in MediaKind.__annotations__:
            setattr(self, name, getattr(inner, name))
        self.door = Door(distribution, f"{type(inner).__qualname__}.")

    @classmethod
    def make(
        cls, kind: type[MediaKind], options: Mapping[str, Any], distribution: str
    ) -> GuardedKind:
        """A new instance of ``kind``, wrapped.

        Raises:
            ConfigError: options that it refuses.
            PluginError: its constructor failed, or its ``options_key`` can't be part of a key.
        """
        door = Door(distribution, f"{kind.__qualname__}.")
        inner = door.begin("__init__", kind, options, check=checks.anything)
        guarded = door.begin("__init__", cls, inner, distribution, check=checks.a(GuardedKind))
        guarded.options_key()
        return guarded

    def with_options(self, options: Mapping[str, Any]) -> GuardedKind:
        """The same kind, reading by other options; errors as ``make``."""
        made = GuardedKind.make(type(self.inner), options, self.distribution)
        if self.embedding_width is not None:
            made.expect_embeddings(self.embedding_width)
        return made

    def expect_embeddings(self, width: int) -> None:
        """As ``MediaKind.expect_embeddings``."""
        tell = self.inner.expect_embeddings
        self.door.begin("expect_embeddings", tell, width, check=checks.anything)
        self.embedding_width = width

    def options_key(self) -> Mapping[str, str | int | float | bool | None]:
        """As ``MediaKind.options_key``."""
        return self.door.call("options_key", self.inner.options_key, check=checks.plain_options)

    def split(self, value: Any) -> list[MediaItem]:
        """As ``MediaKind.split``."""
        return self.door.call("split", self.inner.split, value, check=checks.items(self))

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        """As ``MediaKind.parse_part``."""
        check = checks.part_item(self)
        return self.door.call("parse_part", self.inner.parse_part, part_type, value, check=check)

    def probe(self, sources: Sequence[Source]) -> Probe:
        """As ``MediaKind.probe``."""
        check = checks.probe(self)
        return self.door.read(self.name, "probe", self.inner.probe, sources, check=check)

    def load(self, sources: Sequence[Source]) -> Loaded:
        """As ``MediaKind.load``; closes the readers of a result that it refuses."""
        check = checks.loaded(self)

        def checked(value: Any) -> Loaded:
            try:
                return check(value)
            except BaseException:
                if isinstance(value, Loaded):
                    close_readers(value)
                raise

        return self.door.read(self.name, "load", self.inner.load, sources, check=checked)

    def digest(self, sources: Sequence[Source]) -> bytes:
        """As ``MediaKind.digest``."""
        return self.door.read(self.name, "digest", self.inner.digest, sources, check=checks.digest)

    def limited(self, shape: MediaShape, limits: Mapping[str, int | float]) -> MediaShape:
        """As ``MediaKind.limited``."""
        check = checks.shape(self)
        return self.door.call("limited", self.inner.limited, shape, limits, check=check)

    def blank(self, shape: MediaShape) -> Loaded | None:
        """As ``MediaKind.blank``."""
        return self.door.call("blank", self.inner.blank, shape, check=checks.blank(self))
