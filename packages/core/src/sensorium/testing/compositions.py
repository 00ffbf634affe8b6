"""What must hold of a prompt with its media in place, whatever family composed it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sensorium.types import Composition, PreparedItem


def check_composition(
    composition: Composition, items: Sequence[PreparedItem], *, axes: int, vocab_size: int
) -> None:
    """Checks spans, masks, rows and positions against each other.

    Raises:
        AssertionError: with a sentence that says what is wrong.
    """
    num_tokens = len(composition.token_ids)
    assert all(0 <= token < vocab_size for token in composition.token_ids), (
        "a token id is none of the vocabulary's"
    )
    offsets = [span.offset for span in composition.spans]
    assert offsets == sorted(offsets), "the spans aren't ordered by offset"
    replaced: Counter[int] = Counter()
    used: dict[int, Counter[int]] = {i: Counter() for i in range(len(items))}
    for span in composition.spans:
        assert 0 <= span.offset < span.end <= num_tokens, "a span lies outside of the prompt"
        mask = bytes([1]) * span.length if span.is_embed is None else span.is_embed
        assert len(mask) == span.length, "a span's mask has another length than the span"
        first, stop = span.item_slice
        assert mask.count(1) == stop - first, (
            f"a span replaces {mask.count(1)} tokens by {stop - first} rows"
        )
        replaced.update(span.offset + i for i, bit in enumerate(mask) if bit)
        used[span.item].update(range(first, stop))
    assert all(count == 1 for count in replaced.values()), "two spans replace the same token"
    for i, item in enumerate(items):
        expected = Counter(range(item.plan.num_tokens))
        assert used[i] == expected, (
            f"of the {item.plan.num_tokens} rows of {item.kind} {item.index} each must be used "
            "once; they aren't"
        )
    positions = composition.positions
    if axes > 1:
        assert positions is not None, f"the family has {axes} axes and gave no positions"
    if positions is not None:
        assert positions.shape == (axes, num_tokens), (
            f"positions have the shape {positions.shape}; it must be ({axes}, {num_tokens})"
        )
        assert positions.min(initial=0) >= 0, "a position is negative"
