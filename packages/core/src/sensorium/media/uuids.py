"""``multi_modal_uuids``: the callers' stable names, put on the items they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sensorium.errors import RequestError
from sensorium.types import MediaItem


def attach_uuids(
    items: Mapping[str, Sequence[MediaItem]], uuids: Mapping[str, Any]
) -> list[MediaItem]:
    """Returns all items, each with its uuid if it has one.

    Args:
        items: kind → its items, every kind that ``multi_modal_data`` names.
        uuids: kind → one uuid or None for each item; a bare string for a single item.

    Raises:
        RequestError: a kind that only one of the two names, lengths that differ, or a uuid
            that is no text.
    """
    for kind in uuids:
        if kind not in items:
            raise RequestError(
                f"multi_modal_uuids names {kind}, which multi_modal_data does not hold."
            )
    result: list[MediaItem] = []
    for kind, group in items.items():
        if kind not in uuids:
            raise RequestError(
                f"multi_modal_data holds {kind}, which multi_modal_uuids does not name; it must "
                "name every kind, with None for items that are to be told apart by content."
            )
        names = _names(kind, uuids[kind])
        if len(names) != len(group):
            raise RequestError(
                f"multi_modal_uuids[{kind!r}] has {len(names)} entries for the {len(group)} "
                f"items of multi_modal_data[{kind!r}]; the numbers must be equal."
            )
        pairs = zip(group, names, strict=True)
        result.extend(replace(item, uuid=_checked(item, name)) for item, name in pairs)
    return result


def _names(kind: str, value: Any) -> Sequence[Any]:
    if value is None or isinstance(value, str):
        return [value]
    if isinstance(value, Sequence):
        return value
    raise RequestError(
        f"multi_modal_uuids[{kind!r}] is a {type(value).__name__}; it must be a list of texts and "
        "None, or one text for a single item."
    )


def _checked(item: MediaItem, name: Any) -> str | None:
    if name is None or (isinstance(name, str) and name):
        return name
    given = "an empty text" if name == "" else f"a {type(name).__name__}"
    raise RequestError(f"{item.label}: its uuid is {given}; it must be a text or None.")
