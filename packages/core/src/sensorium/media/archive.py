"""A tensor out of a ``torch.save`` archive, without ``torch.load``.

The archive is a zip file of stored entries: ``NAME/data.pkl`` says what there is, ``NAME/data/0``
holds the numbers. The pickle is followed only as far as it describes one plain tensor:

    _rebuild_tensor_v2(storage, offset, size, stride, …)          storage: ("storage", class,
    _rebuild_tensor_v3(storage, offset, size, stride, …, dtype)     key, device, num_elements)

``torch.load(weights_only=True)`` isn't used: a pickle that it accepts may call ``bytearray`` with
any number, so that a file of a kilobyte takes gigabytes (and older ones have run code:
CVE-2025-32434). Here every name in the pickle stands for a function of this file or a dtype, and
sizes are held against the bytes first.

It knows neither other formats nor what may be done with the tensor.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sensorium.errors import MediaError

ZIP_MAGIC = b"PK\x03\x04"
#: A pickle of protocol 2 that begins with the number 0x1950a86a20f9469cfc6c.
TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
#: More than anyone's media need, and less than torch's own bound.
MAX_DIMENSIONS = 8

#: A tensor's archive has five to seven entries, and a pickle of some 200 bytes.
_MAX_ENTRIES = 32
_MAX_PICKLE_BYTES = 4096
#: Begins each entry of the zip file's directory.
_DIRECTORY_MAGIC = b"PK\x01\x02"

#: What ``torch.save`` writes for a tensor (protocol 2). None of these allocates more than a small
#: multiple of its own length; LONG_BINPUT would, for its number is the length of a list.
_ALLOWED_OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL BINPUT BINGET BINUNICODE BININT BININT1 BININT2 LONG1 NEWTRUE "
    "NEWFALSE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINPERSID REDUCE".split()
)


@dataclass(frozen=True, slots=True)
class _Storage:
    """Where the pickle says the numbers are; ``key`` names an entry."""

    dtype: torch.dtype
    key: str
    num_elements: int

    @property
    def num_bytes(self) -> int:
        return self.num_elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Description:
    """A tensor as the pickle describes it, not yet checked against the bytes."""

    storage: Any
    dtype: Any
    offset: Any
    size: Any
    stride: Any


def read_archive(data: bytes) -> Tensor:
    """The one tensor in an archive: dense, contiguous, in memory of its own.

    Raises:
        MediaError: a damaged archive, or one that holds anything else.
    """
    if data.count(_DIRECTORY_MAGIC) > _MAX_ENTRIES:  # before an object is made for each
        raise MediaError(f"the torch archive has more than the {_MAX_ENTRIES} entries allowed.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read(archive, len(data))
    except MediaError:
        raise
    except Exception:  # the libraries' messages quote the sender's bytes
        raise MediaError("the torch archive is damaged or cut off.") from None


def _read(archive: zipfile.ZipFile, num_bytes: int) -> Tensor:
    entries = _entries(archive, num_bytes)
    root = next(iter(entries), "").partition("/")[0]
    program = entries.get(f"{root}/data.pkl")
    if program is None or not all(name.startswith(f"{root}/") for name in entries):
        raise MediaError("the zip archive is none that torch.save writes.")
    byteorder = entries.get(f"{root}/byteorder")  # torch before 2.1 wrote none: little-endian
    if (archive.read(byteorder) if byteorder else b"little") != sys.byteorder.encode():
        raise MediaError("the torch archive was saved on a machine of another byte order.")
    if program.file_size > _MAX_PICKLE_BYTES:
        raise _not_one_tensor()
    described = _described(archive.read(program))
    entry = entries.get(f"{root}/data/{described.storage.key}")
    if entry is None or entry.file_size != described.storage.num_bytes:
        raise MediaError("the torch archive declares other numbers than it holds.")
    _check_geometry(described)
    return _tensor(described, archive.read(entry))


def _entries(archive: zipfile.ZipFile, num_bytes: int) -> Mapping[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    entries = {info.filename: info for info in infos}
    if len(entries) != len(infos):
        raise MediaError("the torch archive has two entries of one name.")
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise MediaError("the torch archive is compressed; only stored entries are allowed.")
    if sum(info.file_size for info in infos) > num_bytes:
        raise MediaError("the torch archive declares more bytes than it has.")
    return entries


# --- the pickle -----------------------------------------------------------------------


def _described(program: bytes) -> _Description:
    for opcode, _, _ in pickletools.genops(program):
        if opcode.name not in _ALLOWED_OPCODES:
            raise _not_one_tensor()
    described = _Reader(io.BytesIO(program)).load()
    if not (
        isinstance(described, _Description)
        and isinstance(described.storage, _Storage)
        and isinstance(described.dtype, torch.dtype)
    ):
        raise _not_one_tensor()
    return described


class _Reader(pickle.Unpickler):
    """Follows a pickle in which every name is one of ours."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _not_one_tensor()
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, str() as key, str(), int() as num_elements):
                return _Storage(dtype, key, num_elements)
        raise _not_one_tensor()


def _describe_v2(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> _Description:
    # An argument more would hold flags (a conjugate, a negative) that change what the numbers mean.
    return _Description(storage, getattr(storage, "dtype", None), offset, size, stride)


def _describe_v3(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any
) -> _Description:
    return _Description(storage, dtype, offset, size, stride)


def _describe_parameter(described: Any, requires_grad: Any, hooks: Any) -> Any:
    return described


#: A storage class means its dtype; those without a class name it beside an untyped storage.
_NAMES: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _describe_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _describe_v3,
    ("torch._utils", "_rebuild_parameter"): _describe_parameter,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,
    ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
    ("torch.storage", "UntypedStorage"): torch.uint8,
    ("torch", "uint16"): torch.uint16,
    ("torch", "uint32"): torch.uint32,
    ("torch", "uint64"): torch.uint64,
}

# --- the numbers ----------------------------------------------------------------------


def _check_geometry(described: _Description) -> None:
    """The tensor lies within its storage, and isn't larger than it."""
    offset, size, stride = described.offset, described.size, described.stride
    for numbers in (size, stride, (offset,)):
        if not isinstance(numbers, tuple) or not all(type(n) is int and n >= 0 for n in numbers):
            raise _not_one_tensor()
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise _not_one_tensor()
    if 0 in size:
        raise MediaError("the torch archive holds an empty tensor; it must hold a number at least.")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    needed = max(last + 1, math.prod(size)) * described.dtype.itemsize
    if needed > described.storage.num_bytes:
        raise MediaError(
            "the torch archive declares a tensor that is larger than the "
            f"{described.storage.num_bytes} bytes it holds (an expanded one?)."
        )


def _tensor(described: _Description, numbers: bytes) -> Tensor:
    dtype: torch.dtype = described.dtype
    flat = torch.frombuffer(bytearray(numbers), dtype=dtype, count=len(numbers) // dtype.itemsize)
    dense = flat.as_strided(described.size, described.stride, described.offset).contiguous()
    # A dimension of size 1 may come with any stride; code that reads bytes expects the usual one.
    return dense.flatten().view(described.size)


def _not_one_tensor() -> MediaError:
    return MediaError("the torch archive holds something else than one plain tensor.")
