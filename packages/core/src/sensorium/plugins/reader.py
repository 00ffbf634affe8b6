"""``MediaReader``: an opened item, decoded piece by piece while it is processed.

A long item is never in memory whole: ``MediaKind.load`` opens it and returns the reader as
``Loaded.value``, the adapter's ``process`` pulls what it needs, and core closes it. The kind and
its adapters define what a piece is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, final

from sensorium.errors import MediaError, SensoriumError
from sensorium.logger import logger
from sensorium.types import DerivedItem, Loaded


class MediaReader(ABC):
    """Derive from it and define ``read_pieces`` and ``close``."""

    @final
    def pieces(self, wanted: Any = None) -> Iterator[Any]:
        """The pieces that ``read_pieces`` decodes; what an adapter calls.

        Args:
            wanted: which pieces, or in what form, in the kind's own terms; None: all.

        Raises:
            MediaError: the item can't be read on, whatever ``read_pieces`` raised.
        """
        try:
            yield from self.read_pieces(wanted)
        except (SensoriumError, GeneratorExit):
            raise
        except Exception as error:
            logger.debug("%s failed while it was read", type(self).__qualname__, exc_info=True)
            raise MediaError("it can't be read to its end: damaged, or not supported.") from error

    @abstractmethod
    def read_pieces(self, wanted: Any) -> Iterator[Any]:
        """Decodes the wanted pieces, one after another.

        Raises:
            MediaError: truncated, corrupt or unsupported, in our own words.
            LimitError: more than the header said, and more than the kind allows.
        """

    @abstractmethod
    def close(self) -> None:
        """Releases its resources. Called exactly once, from a media thread, also after an error."""


def close_readers(loaded: Loaded) -> None:
    """Closes what was opened for an item and for those found inside it; never raises."""
    found = [item.loaded for item in loaded.derived if isinstance(item, DerivedItem)]
    for opened in (loaded, *found):
        if not isinstance(opened.value, MediaReader):
            continue
        try:
            opened.value.close()
        except BaseException:  # the item's features are made, or its error is known
            logger.warning("%s failed to close", type(opened.value).__name__, exc_info=True)
