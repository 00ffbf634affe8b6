"""Positions on three axes (M-RoPE; Wang et al. 2024, "Qwen2-VL"): time, row, column.

text        t t t                 all axes count up together
an item     (s + time, s + row, s + column), s the next free position
text again  goes on at 1 + the largest position so far, on any axis
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sensorium.errors import PluginError
from sensorium.types import MediaSpan, Positions, PreparedItem

AXES = 3


def mrope_positions(
    num_tokens: int, spans: Sequence[MediaSpan], items: Sequence[PreparedItem]
) -> tuple[Positions, int]:
    """Positions of a whole prompt.

    An item whose plan has a grid (times, rows, columns) takes it; one without counts as text,
    and so do the tokens around an item's embedding rows.

    Args:
        num_tokens: of the prompt.
        spans: by offset, not overlapping.

    Returns:
        (3, num_tokens) int64, and how far a generated token's position is from its index.

    Raises:
        PluginError: an adapter's plan whose grid doesn't fit its rows.
    """
    positions = np.empty((AXES, num_tokens), np.int64)
    done = following = 0
    for span in spans:
        grid = items[span.item].plan.grid
        if not grid:
            continue
        start, stop = _rows(span, grid, items[span.item].kind)
        positions[:, done:start] = np.arange(following, following + start - done)
        following += start - done
        axes = np.indices(grid).reshape(AXES, -1) + following
        positions[:, start:stop] = axes
        done, following = stop, int(axes.max()) + 1
    positions[:, done:] = np.arange(following, following + num_tokens - done)
    return positions, following - done


def _rows(span: MediaSpan, grid: tuple[int, ...], kind: str) -> tuple[int, int]:
    """Where in the prompt the item's embedding rows begin and end."""
    first, stop = 0, span.length
    if span.is_embed is not None:
        first, stop = span.is_embed.find(1), span.is_embed.rfind(1) + 1
        if span.is_embed.count(1) != stop - first:
            raise PluginError(
                f"A {kind} item has a grid, and other tokens between its embedding rows; "
                "its positions are undefined."
            )
    if len(grid) != AXES or int(np.prod(grid)) != stop - first:
        raise PluginError(
            f"A {kind} item has {stop - first} embedding rows and the grid {grid}; a grid of "
            "(times, rows, columns) must have as many places as there are rows."
        )
    return span.offset + first, span.offset + stop
