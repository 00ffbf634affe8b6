"""Features in one flat buffer: named tensors of any dtype → bytes and a small header, and back.

    buffer   │ tensor 0 … │ zeros │ tensor 1 … │ zeros │ tensor 2 … │
             0                    64·a                 64·b         num_bytes

Each tensor is written once, and read without a copy; its bits are kept, NaN payloads included.
A header may come from another process, so everything in it is checked.

It doesn't know how the buffer is shared, nor what the tensors are for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.errors import EngineError
from sensorium.types import Features

#: Where a tensor may begin: a cache line, and the widest load a processor has.
ALIGNMENT = 64
#: Longest header in bytes; one of a thousand tensors takes a twentieth of it.
MAX_HEADER_BYTES = 2**20

_FORMAT = "features 1"
#: torch copies no more than this.
_MAX_DIMENSIONS = 64
_MAX_BYTES = 2**63 - 1
_DTYPES: Mapping[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
        *(torch.complex32, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool),
        *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    )
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_FEW_BYTES = 2**21
#: By itemsize.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Where one tensor lies in the buffer.

    Attributes:
        name: its name in its encoder's features.
        dtype: as torch prints it, without ``torch.``.
        offset: of its first byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class PackedHeader:
    """What a buffer holds.

    Attributes:
        num_bytes: the buffer's length.
        encoders: encoder name and its tensors, in the order in which they lie in the buffer.
    """

    num_bytes: int
    encoders: tuple[tuple[str, tuple[TensorLayout, ...]], ...]

    def to_bytes(self) -> bytes:
        """As ASCII text, for another process.

        Raises:
            EngineError: longer than ``MAX_HEADER_BYTES``.
        """
        encoders = [
            [encoder, [[t.name, t.dtype, list(t.shape), t.offset] for t in tensors]]
            for encoder, tensors in self.encoders
        ]
        data = json.dumps([_FORMAT, self.num_bytes, encoders], separators=(",", ":")).encode()
        if len(data) > MAX_HEADER_BYTES:
            raise EngineError(
                f"the features' header takes {len(data)} bytes; at most {MAX_HEADER_BYTES} are "
                "allowed."
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> PackedHeader:
        """Reads what ``to_bytes`` wrote, and nothing else.

        Raises:
            EngineError: anything else, or a layout that no buffer can have.
        """
        if len(data) > MAX_HEADER_BYTES:
            raise EngineError(
                f"the features' header takes {len(data)} bytes; at most {MAX_HEADER_BYTES} are "
                "allowed."
            )
        try:
            form, num_bytes, encoders = json.loads(data)
            header = cls(
                num_bytes,
                tuple(
                    (encoder, tuple(TensorLayout(n, d, tuple(s), o) for n, d, s, o in tensors))
                    for encoder, tensors in encoders
                ),
            )
        except (ValueError, TypeError, RecursionError):
            raise EngineError("the features' header can't be read.") from None
        _check(header)
        # Only one spelling is accepted: no spaces, no second key, no 1.0 for 1.
        if form != _FORMAT or header.to_bytes() != data:
            raise EngineError("the features' header can't be read.")
        return header


@dataclass(frozen=True, slots=True)
class Packed:
    """Features in one buffer.

    Attributes:
        buffer: (header.num_bytes,) uint8, on the CPU.
    """

    header: PackedHeader
    buffer: Tensor


def pack(features: Mapping[str, Features]) -> Packed:
    """Copies all tensors into a new buffer.

    Args:
        features: encoder name → named tensors: dense, on the CPU, of any strides.

    Raises:
        EngineError: a tensor that can't be packed.
    """
    header = layout(features)
    buffer = torch.empty(header.num_bytes, dtype=torch.uint8)
    write(features, header, buffer)
    return Packed(header, buffer)


def layout(features: Mapping[str, Features]) -> PackedHeader:
    """Where each tensor will lie; nothing is copied.

    Raises:
        EngineError: a tensor that can't be packed.
    """
    end = 0
    encoders = []
    for encoder, tensors in features.items():
        placed = []
        for name, tensor in tensors.items():
            _check_packable(f"{encoder}/{name}", tensor)
            offset = -(-end // ALIGNMENT) * ALIGNMENT
            placed.append(TensorLayout(name, _NAMES[tensor.dtype], tuple(tensor.shape), offset))
            end = offset + tensor.numel() * tensor.itemsize
        encoders.append((encoder, tuple(placed)))
    header = PackedHeader(end, tuple(encoders))
    _check(header)
    return header


def write(features: Mapping[str, Features], header: PackedHeader, buffer: Tensor) -> None:
    """Copies all tensors to where ``layout(features)`` puts them, and zeros between them.

    Args:
        header: what ``layout`` made of these features.
        buffer: (header.num_bytes,) uint8, on the CPU, aligned to ``ALIGNMENT``; it may be memory
            that another process maps.

    Raises:
        EngineError: a buffer that the header doesn't fit.
    """
    views = _views(header, buffer)
    for encoder, tensors in features.items():
        for name, tensor in tensors.items():
            _copy_bits(tensor, views[encoder][name])
    # The reader must not see what the memory held before.
    for (_, end), (start, _) in pairwise([(0, 0), *_extents(header)]):
        buffer[end:start].zero_()


def unpack(header: PackedHeader, buffer: Tensor) -> dict[str, dict[str, Tensor]]:
    """The features, as views into ``buffer``.

    Args:
        buffer: as for ``write``.

    Raises:
        EngineError: a header that doesn't fit the buffer: tensors that overlap, lie out of
            bounds or off the alignment, a dtype, shape or name that can't be.
    """
    _check(header)
    return _views(header, buffer)


def _views(header: PackedHeader, buffer: Tensor) -> dict[str, dict[str, Tensor]]:
    if buffer.dtype != torch.uint8 or buffer.dim() != 1 or buffer.device.type != "cpu":
        raise EngineError("the features' buffer must be a flat uint8 tensor on the CPU.")
    if not buffer.is_contiguous() or buffer.numel() != header.num_bytes:
        raise EngineError(
            f"the features' header is one of {header.num_bytes} bytes, and the buffer holds "
            f"{buffer.numel()}."
        )
    if buffer.data_ptr() % ALIGNMENT or buffer.storage_offset() % ALIGNMENT:
        raise EngineError(f"the features' buffer must begin at a multiple of {ALIGNMENT} bytes.")
    return {
        encoder: {tensor.name: _view(tensor, buffer) for tensor in tensors}
        for encoder, tensors in header.encoders
    }


def _view(tensor: TensorLayout, buffer: Tensor) -> Tensor:
    end = tensor.offset + _num_bytes(tensor)
    return buffer[tensor.offset : end].view(_DTYPES[tensor.dtype]).view(tensor.shape)


def _copy_bits(source: Tensor, target: Tensor) -> None:
    """Copies as integers, because not every copy keeps a NaN's payload or a bool's byte."""
    source = source.detach().resolve_conj().resolve_neg()
    if source.dtype == torch.complex128:  # no integer is as wide
        source, target = torch.view_as_real(source), torch.view_as_real(target)
    bits = _BITS[source.itemsize]
    given, to = source.view(bits).numpy(), target.view(bits).numpy()
    if given.nbytes <= _FEW_BYTES and given.flags.c_contiguous:
        # With the interpreter's lock held: to have it back may take longer than to copy.
        to.reshape(-1).view(np.uint8).data[:] = given.reshape(-1).view(np.uint8).data
    else:
        # Not by torch: waking its team of threads takes longer than copying one item's features.
        np.copyto(to, given)


def _num_bytes(tensor: TensorLayout) -> int:
    return math.prod(tensor.shape) * _DTYPES[tensor.dtype].itemsize


def _extents(header: PackedHeader) -> Iterator[tuple[int, int]]:
    """The first byte of each tensor and the one behind its last, in the header's order."""
    for _, tensors in header.encoders:
        for tensor in tensors:
            yield tensor.offset, tensor.offset + _num_bytes(tensor)


# --- checks ---------------------------------------------------------------------------


def _check_packable(label: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise EngineError(
            f"the features {label} are a {type(tensor).__name__}; only tensors are allowed."
        )
    if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
        raise EngineError(f"the features {label} must be a dense tensor on the CPU.")
    if tensor.dtype not in _NAMES:
        raise EngineError(
            f"the features {label} are {str(tensor.dtype).removeprefix('torch.')}; allowed are "
            f"{', '.join(_DTYPES)}."
        )


def _check(header: PackedHeader) -> None:
    """What holds for any header, whatever its buffer."""
    if not _is_count(header.num_bytes):
        raise EngineError("the features' header doesn't say how many bytes the buffer has.")
    _check_names("encoders", [encoder for encoder, _ in header.encoders])
    end = 0
    for encoder, tensors in header.encoders:
        _check_names(f"tensors of {encoder}", [tensor.name for tensor in tensors])
        for tensor in tensors:
            end = _check_tensor(tensor, f"{encoder}/{tensor.name}", end, header.num_bytes)
    if end != header.num_bytes:
        raise EngineError(
            f"the features' header says {header.num_bytes} bytes, and its tensors end at {end}."
        )


def _check_tensor(tensor: TensorLayout, label: str, start: int, num_bytes: int) -> int:
    """Checks one tensor that may begin at ``start``; returns the byte behind its last."""
    if not isinstance(tensor.dtype, str) or tensor.dtype not in _DTYPES:
        raise EngineError(f"the features {label} are of no known dtype.")
    shape = tensor.shape
    if not isinstance(shape, tuple) or not all(_is_count(n) for n in shape):
        raise EngineError(f"the features {label} have a shape that isn't made of counts.")
    # Strides are made of the other dimensions even where one of them is 0.
    extent = math.prod(max(n, 1) for n in shape) * _DTYPES[tensor.dtype].itemsize
    if len(shape) > _MAX_DIMENSIONS or extent > _MAX_BYTES:
        raise EngineError(f"the features {label} have a shape that is too large.")
    if not _is_count(tensor.offset) or tensor.offset % ALIGNMENT:
        raise EngineError(f"the features {label} don't begin at a multiple of {ALIGNMENT} bytes.")
    if tensor.offset < start:
        raise EngineError(f"the features {label} overlap the tensor before them.")
    end = tensor.offset + _num_bytes(tensor)
    if end > num_bytes:
        raise EngineError(
            f"the features {label} end at byte {end} of a buffer of {num_bytes} bytes."
        )
    return end


def _check_names(what: str, names: list[Any]) -> None:
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise EngineError(f"the features' header names {what} twice, or not by a text.")


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number <= _MAX_BYTES
