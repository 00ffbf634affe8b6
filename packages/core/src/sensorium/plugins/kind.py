"""``MediaKind``: what an item is, whatever the model.

A kind knows how its media are given, checked, decoded and told apart. It knows nothing of
models, tokens or caches. One instance serves one engine, from several threads at once: its
methods keep no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sensorium.errors import ConfigError
from sensorium.types import Loaded, MediaItem, MediaShape, Probe, Source


class MediaKind(ABC):
    """One kind of media.

    Class attributes:
        name: the key in ``multi_modal_data``, ``multi_modal_uuids``,
            ``limit_mm_per_prompt`` and ``media_io_kwargs``.
        part_types: the chat part types it answers to ("NAME_url", …).
        offline_part_types: those of them whose values only a Python caller can hold.
        fetch_timeout_s, max_fetch_bytes: for one fetched source.
        max_decoded_bytes: what one item may take once decoded, checked against ``probe``.
        media_types: the media types of its encoded files ("NAME/*", "NAME/FORMAT"), for a file
            picker or a command line to offer; () if it takes no files.
        size_names: names of the dimensions of ``MediaShape.size``, in order.
        fact_names: names of all facts that its shapes may have (``MediaShape.facts``).
        default_limit: items in one prompt where ``limit_mm_per_prompt`` says nothing; None:
            as many as fit.
    """

    name: ClassVar[str]
    part_types: ClassVar[tuple[str, ...]] = ()
    offline_part_types: ClassVar[tuple[str, ...]] = ()
    fetch_timeout_s: ClassVar[float] = 10.0
    max_fetch_bytes: ClassVar[int] = 256 * 2**20
    max_decoded_bytes: ClassVar[int] = 2**30
    media_types: ClassVar[tuple[str, ...]] = ()
    size_names: ClassVar[tuple[str, ...]] = ()
    fact_names: ClassVar[tuple[str, ...]] = ()
    default_limit: ClassVar[int | None] = None
    #: Width of a row of pre-computed embeddings, by which ``split`` tells embeddings from other
    #: tensors; None: not known, or the model takes none.
    embedding_width: int | None = None

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Reads the kind's entry of ``media_io_kwargs``.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        if options:
            raise ConfigError(
                f"media_io_kwargs[{self.name!r}] has {', '.join(map(repr, options))}; "
                f"the kind {self.name} has no options."
            )

    def expect_embeddings(self, width: int) -> None:
        """Called once the model that is served is known: its ``embedding_width``."""
        self.embedding_width = width

    def options_key(self) -> Mapping[str, str | int | float | bool | None]:
        """The options that change what ``load`` returns, those left out filled in.

        They are part of every key, and adapters see them in ``MediaAdapter.worst_case``.
        """
        return {}

    @abstractmethod
    def split(self, value: Any) -> list[MediaItem]:
        """Splits ``multi_modal_data[name]`` into items, in order, indices from 0.

        ``None`` entries (data left to a uuid) become items without sources. Must not read
        or decode anything.

        Raises:
            MediaError: a value in a form that this kind doesn't take; the message lists those it
                does.
        """

    @abstractmethod
    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        """Makes the item of one chat part; ``value`` is ``part[part_type]``, maybe None.

        Raises:
            MediaError: a value of the wrong shape.
        """

    @abstractmethod
    def probe(self, sources: Sequence[Source]) -> Probe:
        """Reads headers only, so that limits hold before anything is decoded.

        Its size must be the one that ``load`` gives, and so must the facts that it states.

        Raises:
            MediaError: not a format on the kind's allow-list.
            LimitError: larger than the kind allows.
        """

    @abstractmethod
    def load(self, sources: Sequence[Source]) -> Loaded:
        """Decodes, or opens what is to be decoded piece by piece (``MediaReader``).

        ``sources`` are bytes or values; URLs were fetched before.

        Raises:
            MediaError: truncated, corrupt or unsupported, in our own words.
        """

    @abstractmethod
    def digest(self, sources: Sequence[Source]) -> bytes:
        """32 bytes that two items share only if ``load`` would return the same.

        Made with ``sensorium.media.digest.Digest``, over all sources in order, shape and
        mode included. It must not decode encoded bytes.
        """

    def limited(self, shape: MediaShape, limits: Mapping[str, int | float]) -> MediaShape:
        """An adapter's worst case, limited by the sizes that the user gave for the largest item.

        By default each limit replaces the extent or the fact of its name. A kind whose facts
        follow from its extents (a time for each piece) overrides this to keep them in step.

        Args:
            limits: the sizes beside "count" in ``limit_mm_per_prompt``, by names out of
                ``size_names`` and ``fact_names``.
        """
        size = [
            limits.get(name, extent)
            for name, extent in zip(self.size_names, shape.size, strict=True)
        ]
        facts = {name: limits[name] for name in self.fact_names if name in limits}
        return MediaShape(tuple(map(int, size)), {**shape.facts, **facts})

    def blank(self, shape: MediaShape) -> Loaded | None:
        """An item of this shape with nothing in it, on which memory profiling runs the encoders.

        None (the default): none can be made; profiling then leaves this kind's encoders out.
        """
        return None
