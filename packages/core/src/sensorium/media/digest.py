"""``Digest``: a hash over fields that can't be mistaken for other fields.

Every field is framed by a type tag and its length, so that two different lists of fields
never feed the hash the same bytes. It knows nothing of what the fields mean.

    frame    = tag (1 byte) + length (8 bytes, little endian) + payload
    None N, bool B, int I, float F, str S, bytes Y: the payload is the value
    sequence L, mapping M: the length counts entries, the payload is their frames
    array A: three entries: dtype (str), shape (sequence), its bytes in C order
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from blake3 import blake3

#: bytes in a digest
DIGEST_SIZE = 32


class Digest:
    """256-bit blake3 over length-framed, type-tagged fields.

    Args:
        domain: what is hashed; digests of different domains never meet.
    """

    def __init__(self, domain: str) -> None:
        self._hash = blake3()
        self.add(domain)

    def add(self, value: object) -> Digest:
        """Adds one field and returns itself.

        Takes None, bool, int, float, str, bytes-likes, numpy arrays and scalars, and lists,
        tuples and mappings with str keys of these. Lists and tuples count as the same type;
        a mapping's order doesn't count. Large buffers are hashed without the GIL.

        Raises:
            TypeError: a value of another type, or an array of Python objects.
        """
        for piece in frames(value):
            self._hash.update(piece)
        return self

    def digest(self) -> bytes:
        """The 32 bytes so far."""
        return self._hash.digest()


def frames(value: object) -> Iterator[bytes | memoryview]:
    """Yields the bytes that stand for one field; joined they can be read back."""
    match value:
        case None:
            yield _head(b"N", 0)
        case bool():
            yield _head(b"B", 1) + bytes([value])
        case int():
            payload = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            yield _head(b"I", len(payload)) + payload
        case float():
            yield _head(b"F", 8) + struct.pack("<d", value)
        case str():
            payload = value.encode("utf-8", "surrogatepass")
            yield _head(b"S", len(payload)) + payload
        case bytes() | bytearray() | memoryview():
            yield from _buffer_frames(memoryview(value))
        case np.generic():
            yield from frames(value.item())
        case np.ndarray():
            yield from _array_frames(value)
        case list() | tuple():
            yield _head(b"L", len(value))
            for entry in value:
                yield from frames(entry)
        case Mapping():
            yield from _mapping_frames(value)
        case _:
            raise TypeError(f"a digest takes plain values and arrays, not {type(value).__name__}")


def _head(tag: bytes, length: int) -> bytes:
    return tag + length.to_bytes(8, "little")


def _buffer_frames(view: memoryview) -> Iterator[bytes | memoryview]:
    flat = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    yield _head(b"Y", flat.nbytes)
    yield flat


def _array_frames(array: np.ndarray[Any, Any]) -> Iterator[bytes | memoryview]:
    if array.dtype.hasobject or array.dtype.names is not None:
        raise TypeError(f"a digest takes arrays of numbers, not of {array.dtype}")
    yield _head(b"A", 3)
    yield from frames(array.dtype.str)
    yield from frames(array.shape)
    # The view as bytes also serves dtypes that the buffer protocol doesn't know (float16, dates).
    yield from _buffer_frames(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _mapping_frames(mapping: Mapping[Any, object]) -> Iterator[bytes | memoryview]:
    if not all(isinstance(key, str) for key in mapping):
        raise TypeError("a digest takes mappings whose keys are str")
    yield _head(b"M", len(mapping))
    for key in sorted(mapping):
        yield from frames(key)
        yield from frames(mapping[key])
