"""``MediaFiles``: how a client sends the files of one kind of media in a chat.

Kinds say it themselves; nothing here knows one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sensorium.plugins.kind import MediaKind

_ENDING = "_url"


@dataclass(frozen=True, slots=True)
class MediaFiles:
    """The files of one kind.

    Attributes:
        kind: its name.
        part_type: the chat part that takes a file as a URL, ``{"type": T, T: {"url": …}}``.
        media_types: the types of its files ("NAME/*", "NAME/FORMAT").
    """

    kind: str
    part_type: str
    media_types: tuple[str, ...]


def files_of(kinds: Mapping[str, MediaKind | type[MediaKind]]) -> tuple[MediaFiles, ...]:
    """Of all kinds that take files; a kind without a part "…_url" takes none."""
    return tuple(_files(kinds))


def _files(kinds: Mapping[str, MediaKind | type[MediaKind]]) -> Iterator[MediaFiles]:
    for name, kind in kinds.items():
        online = [part for part in kind.part_types if part not in kind.offline_part_types]
        part_type = next((part for part in online if part.endswith(_ENDING)), None)
        if part_type is not None and kind.media_types:
            yield MediaFiles(name, part_type, tuple(kind.media_types))
