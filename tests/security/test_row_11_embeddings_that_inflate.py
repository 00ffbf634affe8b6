"""Row 11: embeddings that take far more memory than was sent are refused before they take it.

66 kB of a deflated archive became 64 MiB elsewhere, and a header of 128 bytes asked for 32 GiB.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sensorium.errors import LimitError, MediaError
from sensorium.media.tensors import decode_tensor, decode_tensor_base64

MIB = 2**20
#: What a refusal may take: less than any bomb below would, were it let off.
ALLOWED = 64 * MIB
BOMB = 256 * MIB

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel bounds a process's memory so on Linux alone"
)


@contextlib.contextmanager
def bounded_memory(more_bytes: int) -> Iterator[None]:
    """Lets this process take ``more_bytes`` more than it has, whoever in it asks."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (bound, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def archive(value: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def rewritten(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An archive of another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            entry = old.read(name)
            new.writestr(name, change(entry) if name.endswith("/data.pkl") else entry)
    return buffer.getvalue()


def deflated() -> bytes:
    """What an archive of a large tensor of zeros becomes when it is compressed."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive(torch.zeros(4)))) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in old.namelist():
            entry = old.read(name)
            with new.open(name, "w") as file:
                if name.endswith("/data.pkl"):
                    file.write(entry.replace(b"K\4", b"J" + struct.pack("<i", BOMB // 4)))
                elif name.endswith("/data/0"):
                    for _ in range(BOMB // MIB):
                        file.write(bytes(MIB))
                else:
                    file.write(entry)
    return buffer.getvalue()


def falsely_stored() -> bytes:
    """One entry that says it is stored, and larger than the whole file."""
    data = bytearray(archive(torch.ones(4)))
    at = data.rindex(b"PK\1\2", 0, data.rindex(b"archive/data/0"))
    struct.pack_into("<II", data, at + 20, BOMB, BOMB)
    return bytes(data)


def swollen_pickle() -> bytes:
    """A stored tensor of 16 bytes whose pickle speaks of 1 GiB."""

    def change(program: bytes) -> bytes:
        assert program.count(b"K\4") == 2, "the storage's length and the tensor's"
        return program.replace(b"K\4", b"J" + struct.pack("<i", BOMB))

    return rewritten(archive(torch.ones(4)), change)


def builtin_bytearray() -> bytes:
    """What torch's own weights-only loader follows: ``bytearray(BOMB)``."""
    program = b"\x80\x02c__builtin__\nbytearray\nJ" + struct.pack("<i", BOMB) + b"\x85R."
    return rewritten(archive(torch.ones(4)), lambda _: program)


def high_memo() -> bytes:
    """A pickle that remembers something as number 2**27: an array of 2 GiB in C."""
    program = b"\x80\x02)r" + struct.pack("<I", BOMB // 2) + b"."
    return rewritten(archive(torch.ones(4)), lambda _: program)


def npy(shape: tuple[int, ...], *, order: bool = False) -> bytes:
    header = repr({"descr": "<f4", "fortran_order": order, "shape": shape}).encode()
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def safetensors(shape: list[int], end: int, *, num_bytes: int = 16) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(num_bytes)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated archive": (deflated, "is compressed; only stored entries are allowed"),
    "falsely stored": (falsely_stored, "declares more bytes than it has"),
    "expanded": (
        lambda: archive(torch.ones(1).expand(BOMB)),
        "larger than the 4 bytes it holds",
    ),
    "expanded rows": (
        lambda: archive(torch.ones(1, 512).expand(BOMB, 512)),
        "larger than the 2048 bytes it holds",
    ),
    "overlapping windows": (
        lambda: archive(torch.ones(65536).as_strided((32768, 32768), (1, 1))),
        "larger than the 262144 bytes it holds",
    ),
    "swollen pickle": (swollen_pickle, "declares other numbers than it holds"),
    "bytearray": (builtin_bytearray, "something else than one plain tensor"),
    "high memo": (high_memo, "something else than one plain tensor"),
    "npy, 32 GiB": (lambda: npy((2**33,)), "asks for 34359738368 bytes, and 0 follow"),
    "npy, by columns": (lambda: npy((2**17, 2**16), order=True), "asks for 34359738368 bytes"),
    "npy, overflow": (lambda: npy((2**32, 2**32)), "asks for more bytes than there can be"),
    "npy, wraps to nothing": (lambda: npy((2**62,)), "asks for more bytes than there can be"),
    "npy, nothing of much": (lambda: npy((0, 2**62)), "holds no numbers"),
    "safetensors": (lambda: safetensors([BOMB], 4 * BOMB), "damaged or cut off"),
    "safetensors, lying shape": (lambda: safetensors([BOMB], 16), "damaged or cut off"),
    "safetensors, overflow": (lambda: safetensors([2**32, 2**32], 16), "damaged or cut off"),
    "safetensors, header": (lambda: struct.pack("<Q", BOMB) + b"{" + bytes(9), "header is cut off"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_row_11_a_bomb_is_refused_for_what_it_is(name: str) -> None:
    make, sentence = BOMBS[name]
    data = make()
    assert len(data) < 2 * MIB
    tracemalloc.start()
    try:
        # One that went off would end in "damaged", for want of memory.
        with bounded_memory(ALLOWED), pytest.raises(MediaError, match=sentence):
            decode_tensor(data, max_bytes=2 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + MIB
    finally:
        tracemalloc.stop()


def test_row_11_the_bound_is_felt() -> None:
    """Each kind of memory that a bomb could take runs into it."""
    with bounded_memory(ALLOWED):
        for take in (
            lambda: bytearray(BOMB),
            lambda: np.zeros(BOMB, np.uint8),
            lambda: torch.empty(BOMB, dtype=torch.uint8),
            lambda: torch.load(io.BytesIO(builtin_bytearray()), weights_only=True),
            lambda: torch.ones(1).expand(BOMB).contiguous(),
        ):
            with pytest.raises((MemoryError, RuntimeError), match=r"^$|allocate memory|Unable to"):
                take()


@pytest.mark.parametrize("count", [33, 20_000])
def test_row_11_no_object_for_each_of_many_entries(count: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive_file:
        for number in range(count):
            archive_file.writestr(zipfile.ZipInfo(f"a/{number}"), b"")
    data = buffer.getvalue()
    tracemalloc.start()
    try:
        with pytest.raises(MediaError, match="more than the 32 entries allowed"):
            decode_tensor(data, max_bytes=2**30)
        assert tracemalloc.get_traced_memory()[1] < MIB
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            assert len(opened.infolist()) == count
            assert count == 33 or tracemalloc.get_traced_memory()[1] > 2 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["archive", "npy", "safetensors"])
def test_row_11_what_is_read_takes_a_few_times_what_was_sent(form: str) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2 * MIB, np.float32))
    data = {
        "archive": archive(torch.zeros(2 * MIB)),
        "npy": buffer.getvalue(),
        "safetensors": safetensors([2 * MIB], 8 * MIB, num_bytes=8 * MIB),
    }[form]
    with bounded_memory(4 * len(data)):
        assert decode_tensor(data, max_bytes=len(data)).shape == (2 * MIB,)


def test_row_11_base64_in_tiny_lines() -> None:
    text = "A\n" * (2 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(MediaError, match="no tensor in an allowed format"):
            decode_tensor_base64(text, max_bytes=2 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text)
    finally:
        tracemalloc.stop()


def test_row_11_base64_is_measured_before_it_is_decoded() -> None:
    text = "A" * (16 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match=f"longer than {MIB} bytes can be"):
            decode_tensor_base64(text, max_bytes=MIB)
        with pytest.raises(LimitError, match=f"more than the {9 * MIB} allowed"):
            decode_tensor_base64(text, max_bytes=9 * MIB)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
