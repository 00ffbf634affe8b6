"""Pre-computed embeddings of images: several in one value → one each.

    (items, tokens, hidden)             a tensor or array
    [(tokens, hidden), None, …]         a list
    {"image_embeds": either, or the rows of all items behind one another,
     "image_grid_thw": (items, 3), "image_sizes": (items, 2)}

Only splits. Numbers are checked by core, and against the grid by the family. The names are those of
an ``EmbedsForm``, so that other kinds can take embeddings in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from sensorium.errors import MediaError
from sensorium.types import GivenEmbeds
from sensorium_media_image.arrays import is_array, to_numpy


@dataclass(frozen=True, slots=True)
class EmbedsForm:
    """The names of a kind's embeddings.

    Attributes:
        kind: the kind's name.
        items: several of them, in messages.
        key: of the rows.
        fields: what may come beside the rows, and how many numbers an item has of each.
        grid: the field by which rows behind one another are shared out.
    """

    kind: str
    items: str
    key: str
    fields: Mapping[str, int]
    grid: str


EMBEDS = "image_embeds"
#: Grids are (times, rows, columns) in patches, sizes (width, height) in pixels.
IMAGE_FORM = EmbedsForm(
    "image", "images", EMBEDS, {"image_grid_thw": 3, "image_sizes": 2}, "image_grid_thw"
)


def split_rows(value: Any) -> list[GivenEmbeds]:
    """(items, tokens, hidden) → one entry an item."""
    return [GivenEmbeds(rows) for rows in value]


def split_mapping(value: Mapping[str, Any], form: EmbedsForm = IMAGE_FORM) -> list[GivenEmbeds]:
    """A mapping with the rows and fields of ``form`` → one entry an item.

    Raises:
        MediaError: an unknown key, or counts that differ.
    """
    for key in value:
        if key != form.key and key not in form.fields:
            allowed = ", ".join((form.key, *form.fields))
            raise MediaError(
                f"the {form.kind} embeddings come with {key!r}; allowed are {allowed}."
            )
    fields = {name: value[name] for name in form.fields if value.get(name) is not None}
    rows = value[form.key]
    if isinstance(rows, str) or rows is None:  # one item; the fields may be base64 too
        return [
            GivenEmbeds(rows, {name: _single(form, name, field) for name, field in fields.items()})
        ]
    columns = {name: _per_item(form, name, field) for name, field in fields.items()}
    counts = {name: len(column) for name, column in columns.items()}
    items = _items(rows, columns, form)
    for name, count in counts.items():
        if count != len(items):
            raise MediaError(
                f"{name} is given for {count} {form.items}, {form.key} for {len(items)}."
            )
    return [
        GivenEmbeds(item, {name: column[i] for name, column in columns.items()})
        for i, item in enumerate(items)
    ]


def _items(rows: Any, columns: Mapping[str, Sequence[Any]], form: EmbedsForm) -> list[Any]:
    if isinstance(rows, (list, tuple)):
        return list(rows)
    if not is_array(rows) or rows.ndim not in (2, 3):
        shape = f" of shape {tuple(rows.shape)}" if is_array(rows) else ""
        raise MediaError(
            f"{form.key} is a {type(rows).__name__}{shape}; allowed are a tensor (items, tokens, "
            "hidden) or (tokens, hidden), a list of the latter, or one in base64."
        )
    if rows.ndim == 3:
        return list(rows)
    grids = columns.get(form.grid, ())
    return [rows] if len(grids) < 2 else _parted(rows, grids, form)


def _parted(rows: Any, grids: Sequence[Any], form: EmbedsForm) -> list[Any]:
    """The rows of several items behind one another: each has a share as large as its grid."""
    areas = [math.prod(int(number) for number in grid) for grid in grids]
    per_row = sum(areas) // max(1, len(rows))
    if min(areas) < 1 or per_row < 1 or any(area % per_row for area in areas):
        per_row = 0
    if not per_row or sum(areas) // per_row != len(rows):
        raise MediaError(
            f"{form.key} has {len(rows)} rows, which the grids of {form.grid} don't share out."
        )
    bounds = accumulate((area // per_row for area in areas), initial=0)
    return [rows[start:stop] for start, stop in pairwise(bounds)]


def _per_item(form: EmbedsForm, name: str, field: Any) -> Sequence[Any]:
    """A field as one entry an item: from (items, n), a list of n-tuples, or n for one item."""
    numbers = form.fields[name]
    if is_array(field):
        if field.ndim == 1 and field.shape[0] == numbers:
            field = field[None]
        if field.ndim != 2 or field.shape[1] != numbers:
            raise MediaError(
                f"{name} has the shape {tuple(field.shape)}; it must be ({form.items}, {numbers})."
            )
        return list(to_numpy(field))
    entries = list(field) if isinstance(field, (list, tuple)) else []
    if entries and all(type(entry) is int for entry in entries):
        entries = [entries]
    if not entries or not all(_has_numbers(entry, numbers) for entry in entries):
        raise MediaError(
            f"{name} is a {type(field).__name__}; it must be a tensor ({form.items}, {numbers}), "
            f"or a list with {numbers} integers for each {form.kind}."
        )
    return [to_numpy(entry) if is_array(entry) else list(entry) for entry in entries]


def _has_numbers(entry: Any, numbers: int) -> bool:
    if is_array(entry):
        return tuple(entry.shape) == (numbers,)
    if not isinstance(entry, (list, tuple)) or len(entry) != numbers:
        return False
    return all(type(number) is int for number in entry)


def _single(form: EmbedsForm, name: str, field: Any) -> Any:
    if isinstance(field, str):
        return field
    entries = _per_item(form, name, field)
    if len(entries) != 1:
        raise MediaError(f"{name} is given for {len(entries)} {form.items}, {form.key} for 1.")
    return entries[0]
