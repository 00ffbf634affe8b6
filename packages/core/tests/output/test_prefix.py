"""A prefix of a growing list is a sequence like the tuple of its entries."""

from __future__ import annotations

import operator
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.output.prefix import Prefix

INDICES = st.none() | st.integers(-12, 12)


@given(
    entries=st.lists(st.integers(), max_size=8),
    more=st.lists(st.integers(), max_size=3),
    start=INDICES,
    stop=INDICES,
    step=INDICES.filter(lambda step: step != 0),
)
def test_like_the_tuple(
    entries: list[int], more: list[int], start: int | None, stop: int | None, step: int | None
) -> None:
    expected = tuple(entries)
    prefix = Prefix(entries)
    entries += more
    assert tuple(prefix) == expected
    assert prefix == expected
    assert expected == prefix
    assert hash(prefix) == hash(expected)
    assert repr(prefix) == repr(expected)
    assert prefix[start:stop:step] == expected[start:stop:step]
    assert [prefix[i] for i in range(-len(expected), len(expected))] == [*expected, *expected]
    assert pickle.loads(pickle.dumps(prefix)) == expected
    assert (5 in prefix) == (5 in expected)
    assert operator.add(prefix, (1,)) == (*expected, 1)
    assert operator.add((1,), prefix) == (1, *expected)
    assert prefix != (*expected, 0)
    for place in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            prefix[place]
