"""Checks a prompt with its media in place, whichever family composed it.

The scheduler and the runner rely on all of it. A prompt without items, or one whose spans stand
behind one another, costs little more than a look at each span.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sensorium.plugins.compose import TokenizedPrompt
from sensorium.plugins.guard.door import WrongReturnError
from sensorium.types import Composition, MediaSpan, PreparedItem


def check_composition(
    composition: Composition,
    prompt: TokenizedPrompt,
    items: Sequence[PreparedItem],
    *,
    axes: int,
    vocab_size: int,
) -> Composition:
    """Checks ids, spans, masks, rows and positions against each other; returns ``composition``.

    Ids that are the caller's own, in the prompt already, are left to admission.

    Raises:
        WrongReturnError: what is wrong, as the end of a sentence.
    """
    _check_ids(composition.token_ids, prompt.token_ids, vocab_size)
    num_tokens = len(composition.token_ids)
    if not isinstance(composition.spans, tuple):
        raise WrongReturnError("a composition whose spans are no tuple")
    for span in composition.spans:
        _check_span(span, num_tokens, len(items))
    _check_order(composition.spans)
    _check_rows(composition.spans, items)
    _check_positions(composition, axes)
    return composition


def _check_ids(token_ids: object, given: tuple[int, ...], vocab_size: int) -> None:
    if not isinstance(token_ids, tuple):
        raise WrongReturnError("a composition whose token_ids are no tuple")
    if token_ids == given:
        return
    own = set(token_ids).difference(given)
    for token_id in own:
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise WrongReturnError(
                f"the token id {token_id!r}; the vocabulary has 0 to {vocab_size - 1}"
            )


def _check_span(span: object, num_tokens: int, num_items: int) -> None:
    if not isinstance(span, MediaSpan):
        raise WrongReturnError(f"a {type(span).__name__} where a MediaSpan belongs")
    if not 0 <= span.item < num_items:
        raise WrongReturnError(f"a span of item {span.item}; the prompt has {num_items} items")
    if span.length < 1 or span.offset < 0 or span.end > num_tokens:
        raise WrongReturnError(
            f"a span of the tokens {span.offset} to {span.end - 1}; the prompt has {num_tokens}"
        )
    first, stop = span.item_slice
    num_replaced = span.length
    if span.is_embed is not None:
        num_replaced, num_kept = span.is_embed.count(1), span.is_embed.count(0)
        if len(span.is_embed) != span.length or num_replaced + num_kept != span.length:
            raise WrongReturnError(
                f"a span of {span.length} tokens with a mask of {len(span.is_embed)} bytes; it has "
                "one a token, 0 or 1"
            )
    if num_replaced != stop - first:
        raise WrongReturnError(f"a span that replaces {num_replaced} tokens by {stop - first} rows")


def _check_order(spans: Sequence[MediaSpan]) -> None:
    """By offset, and no token replaced twice."""
    end = 0
    for number, span in enumerate(spans):
        if number and span.offset < spans[number - 1].offset:
            raise WrongReturnError("spans that aren't ordered by offset")
        if span.offset < end:
            _check_apart(span, spans[:number])
        end = max(end, span.end)


def _check_apart(span: MediaSpan, earlier: Sequence[MediaSpan]) -> None:
    own = _mask(span)
    for other in earlier:
        start, stop = max(span.offset, other.offset), min(span.end, other.end)
        if start < stop:
            both = (
                own[start - span.offset : stop - span.offset]
                & _mask(other)[start - other.offset : stop - other.offset]
            )
            if both.any():
                raise WrongReturnError("two spans that replace the same token")


def _mask(span: MediaSpan) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    if span.is_embed is None:
        return np.ones(span.length, np.uint8)
    return np.frombuffer(span.is_embed, np.uint8)


def _check_rows(spans: Sequence[MediaSpan], items: Sequence[PreparedItem]) -> None:
    """Each row of each item is used once, so every item is placed."""
    slices: list[list[tuple[int, int]]] = [[] for _ in items]
    for span in spans:
        slices[span.item].append(span.item_slice)
    for item, used in zip(items, slices, strict=True):
        num_rows = item.plan.num_tokens
        following = 0
        for first, stop in used if len(used) == 1 else sorted(used):
            if first != following:
                break
            following = stop
        else:
            if following == num_rows:
                continue
        if not used:
            raise WrongReturnError(f"a prompt without {item.kind} {item.index}")
        raise WrongReturnError(
            f"spans that don't use each of the {num_rows} rows of {item.kind} {item.index} once"
        )


def _check_positions(composition: Composition, axes: int) -> None:
    positions = composition.positions
    if type(composition.position_delta) is not int:
        raise WrongReturnError(f"the position_delta {composition.position_delta!r}, no integer")
    if positions is None:
        if axes > 1:
            raise WrongReturnError(f"no positions; the family has {axes} axes")
        return
    expected = (axes, len(composition.token_ids))
    if not isinstance(positions, np.ndarray) or positions.shape != expected:
        shape = getattr(positions, "shape", type(positions).__name__)
        raise WrongReturnError(f"positions of the shape {shape}; it must be {expected}")
    if positions.dtype != np.int64:
        raise WrongReturnError(f"positions of {positions.dtype}; they are int64")
    if positions.min(initial=0) < 0:
        raise WrongReturnError("a negative position")
