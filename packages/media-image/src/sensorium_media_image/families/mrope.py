"""Positions on three axes (M-RoPE; Wang et al. 2024, "Qwen2-VL"): time, row, column.

text        t t t                 all axes count up together
an item     (s + time, s + row, s + column), s the next free position
text again  goes on at 1 + the largest position so far, on any axis

An item whose times are moments (Bai et al. 2025, "Qwen2.5-VL") says in its plan's facts how many
seconds lie between them and how many positions a second has; else its times are counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sensorium.errors import PluginError, RequestError
from sensorium.types import MediaSpan, Positions, PreparedItem

AXES = 3
#: In ``MediaPlan.facts``: seconds from one time of the grid to the next, one number for all items
#: of the kind in a prompt or one for each; and positions of a second.
SECONDS_PER_GRID = "seconds_per_grid"
TOKENS_PER_SECOND = "tokens_per_second"


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
        RequestError: rates were given one for each item, and not for this one.
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
        axes = np.indices(grid).reshape(AXES, -1)
        axes[0] = _moments(items[span.item])[axes[0]]
        axes += following
        positions[:, start:stop] = axes
        done, following = stop, int(axes.max()) + 1
    positions[:, done:] = np.arange(following, following + num_tokens - done)
    return positions, following - done


def _moments(item: PreparedItem) -> Positions:
    """(times,): where the grid's times lie on the first axis, from 0.

    Products are float32 and cut off behind the last of them, as published: times that are less
    than a position apart then share one.
    """
    times = item.plan.grid[0]
    seconds: Sequence[float] = item.plan.facts.get(SECONDS_PER_GRID, ())
    if not seconds:
        return np.arange(times, dtype=np.int64)
    if len(seconds) > 1 and item.index >= len(seconds):
        raise RequestError(
            f"rates were given for {len(seconds)} {item.kind} items; the prompt has more."
        )
    own = np.float32(seconds[item.index] if len(seconds) > 1 else seconds[0])
    per_second = np.float32(item.plan.facts[TOKENS_PER_SECOND])
    return (np.arange(times, dtype=np.float32) * own * per_second).astype(np.int64)


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
