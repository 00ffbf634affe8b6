"""The framing can be read back, so no two lists of fields feed the hash the same bytes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sensorium.media.digest import DIGEST_SIZE, Digest, frames

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.binary(max_size=6)
    | hnp.arrays(
        dtype=hnp.integer_dtypes() | hnp.floating_dtypes() | hnp.boolean_dtypes(),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    )
)
FIELDS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def encoded(fields: list[Any]) -> bytes:
    return b"".join(bytes(piece) for field in fields for piece in frames(field))


def read(data: bytes, at: int) -> tuple[Any, int]:
    """Reads one frame; the inverse of ``frames`` up to what counts as the same value."""
    tag, length = data[at : at + 1], int.from_bytes(data[at + 1 : at + 9], "little")
    at += 9
    if tag in b"LMA":
        entries = []
        for _ in range(2 * length if tag == b"M" else length):
            entry, at = read(data, at)
            entries.append(entry)
        return (tag, *entries), at
    payload = data[at : at + length]
    assert len(payload) == length
    return (tag, payload), at + length


def canonical(value: Any) -> Any:
    """What ``read`` gives for a value, computed from the value."""
    if value is None:
        return (b"N", b"")
    if isinstance(value, bool):
        return (b"B", bytes([value]))
    if isinstance(value, int):
        return (b"I", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))
    if isinstance(value, float):
        return (b"F", struct.pack("<d", value))
    if isinstance(value, str):
        return (b"S", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes):
        return (b"Y", value)
    if isinstance(value, np.ndarray):
        inner = [value.dtype.str, list(value.shape), value.tobytes()]
        return (b"A", *map(canonical, inner))
    if isinstance(value, dict):
        return (b"M", *(canonical(x) for key in sorted(value) for x in (key, value[key])))
    return (b"L", *map(canonical, value))


@settings(deadline=None)
@given(st.lists(FIELDS, max_size=4))
def test_fields_can_be_read_back(fields: list[Any]) -> None:
    data = encoded(fields)
    at, entries = 0, []
    while at < len(data):
        entry, at = read(data, at)
        entries.append(entry)
    assert entries == [canonical(field) for field in fields]


@settings(deadline=None)
@given(st.lists(FIELDS, max_size=4), st.lists(FIELDS, max_size=4))
def test_different_fields_have_different_digests(left: list[Any], right: list[Any]) -> None:
    same = [canonical(x) for x in left] == [canonical(x) for x in right]
    digests = []
    for fields in (left, right):
        digest = Digest("test")
        for field in fields:
            digest.add(field)
        digests.append(digest.digest())
    assert (digests[0] == digests[1]) == same


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["a", ""], ["a"]),
        ([1], [True]),
        ([1], [1.0]),
        (["a"], [b"a"]),
        ([["a"], "b"], [["a", "b"]]),
        ([[]], [{}]),
        ([np.zeros((2, 3), np.uint8)], [np.zeros((3, 2), np.uint8)]),
        ([np.zeros((2, 3), np.uint8)], [np.zeros((2, 3), np.int8)]),
        ([np.zeros(0)], [None]),
    ],
)
def test_neighbours_differ(left: list[Any], right: list[Any]) -> None:
    def digest(fields: list[Any]) -> bytes:
        result = Digest("test")
        for field in fields:
            result.add(field)
        return result.digest()

    assert digest(left) != digest(right)
    assert len(digest(left)) == DIGEST_SIZE == 32


def test_domains_differ_and_layout_in_memory_does_not_count() -> None:
    assert Digest("a").digest() != Digest("b").digest()
    array = np.arange(24, dtype=np.float16).reshape(4, 6)
    strided = np.asfortranarray(array)
    assert Digest("a").add(array).digest() == Digest("a").add(strided).digest()
    assert Digest("a").add({"x": 1, "y": 2}).digest() == Digest("a").add({"y": 2, "x": 1}).digest()
    view = memoryview(b"abcdef")[::2]
    assert Digest("a").add(view).digest() == Digest("a").add(b"ace").digest()
    assert Digest("a").add(np.int64(5)).digest() == Digest("a").add(5).digest()


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {3}}, np.array([object()]), 1j])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        Digest("a").add(value)
