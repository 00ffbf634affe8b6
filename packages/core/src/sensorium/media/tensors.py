"""One tensor from bytes that a caller sent: safetensors, ``torch.save``, or NumPy's ``.npy``.

No code of the sender's is run. Every declared size is checked against the bytes before a tensor of
that size is allocated. Formats are told apart by their content.

It knows nothing of what the numbers mean.
"""

from __future__ import annotations

import ast
import math
import re
import struct
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from sensorium.errors import LimitError, MediaError
from sensorium.media.archive import MAX_DIMENSIONS, TORCH_LEGACY_MAGIC, ZIP_MAGIC, read_archive
from sensorium.media.fetch.data_url import decode_base64

#: Longest header of a .npy file or a safetensors file; a tensor's takes about 100 bytes.
MAX_HEADER_BYTES = 4096

_NPY_MAGIC = b"\x93NUMPY"
_NPY_KEYS = {"descr", "fortran_order", "shape"}
_NPY_NUMBERS = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")
_ALLOWED_DTYPES = frozenset(
    {torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool}
    | {torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.uint8, torch.uint16, torch.uint32, torch.uint64}
)


def decode_tensor(data: bytes, *, max_bytes: int) -> Tensor:
    """Reads the one tensor in ``data``.

    Returns:
        A dense, contiguous CPU tensor of at least one number, in memory of its own, with at most
        ``MAX_DIMENSIONS`` dimensions; its dtype (floating point of 16 bits or more, integers,
        bool) is the one that was sent.

    Raises:
        MediaError: another format or dtype, damaged bytes, more than one tensor, an empty one,
            or a size that the bytes don't hold.
        LimitError: more than ``max_bytes``.
    """
    if len(data) > max_bytes:
        raise LimitError(f"the tensor takes {len(data)} bytes; at most {max_bytes} are allowed.")
    if data.startswith(ZIP_MAGIC):
        return _checked(read_archive(data))
    if data.startswith(_NPY_MAGIC):
        return _checked(_read_npy(data))
    if data.startswith(TORCH_LEGACY_MAGIC):
        raise MediaError(
            "the tensor was saved in torch's old format; save it again with torch.save of torch "
            "1.6 or newer, or as safetensors."
        )
    if data[8:9] == b"{":
        return _checked(_read_safetensors(data))
    raise MediaError(
        "the bytes are no tensor in an allowed format (safetensors, torch.save, .npy)."
    )


def decode_tensor_base64(text: str, *, max_bytes: int) -> Tensor:
    """As ``decode_tensor``, from base64 text, which may be broken into lines.

    Raises:
        MediaError: also if the text is no base64.
        LimitError: the text stands for more than ``max_bytes``; it isn't decoded then.
    """
    if len(text) > 2 * max_bytes + 1024:  # base64 takes a third more, line ends a little
        raise LimitError(f"the tensor's base64 is longer than {max_bytes} bytes can be.")
    text = text.replace("\n", "").replace("\r", "")
    return decode_tensor(decode_base64(text, max_bytes), max_bytes=max_bytes)


def _checked(tensor: Tensor) -> Tensor:
    """Checks that apply to every format."""
    if tensor.dtype not in _ALLOWED_DTYPES:
        raise MediaError(
            f"the tensor's dtype is {str(tensor.dtype).removeprefix('torch.')}; allowed are "
            "floating-point numbers of 16 bits or more, integers and bool."
        )
    if tensor.numel() == 0:
        raise MediaError("the tensor is empty; it must hold a number at least.")
    if tensor.dim() > MAX_DIMENSIONS:
        raise MediaError(
            f"the tensor has {tensor.dim()} dimensions; at most {MAX_DIMENSIONS} are allowed."
        )
    if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        raise MediaError("the tensor's dtype is bool and it holds other values than 0 and 1.")
    assert tensor.is_contiguous(), "every reader gives a dense tensor"
    return tensor


def _read_safetensors(data: bytes) -> Tensor:
    (header_bytes,) = struct.unpack_from("<Q", data)
    if header_bytes > min(MAX_HEADER_BYTES, len(data) - 8):
        raise MediaError(
            f"the safetensors file's header is cut off, or longer than the {MAX_HEADER_BYTES} "
            "bytes allowed."
        )
    try:
        tensors = safetensors.torch.load(data)
    except Exception:  # its errors quote the header, which is the sender's text
        raise MediaError(
            "the safetensors file is damaged or cut off, or of a dtype that torch doesn't have."
        ) from None
    if len(tensors) != 1:
        raise MediaError(f"the safetensors file holds {len(tensors)} tensors; it must hold one.")
    (tensor,) = tensors.values()
    return tensor


def _read_npy(data: bytes) -> Tensor:
    """NumPy's format 1.0 to 3.0 (numpy.lib.format): magic, version, header length, header."""
    dtype, shape, fortran_order, start = _npy_header(data)
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes != len(data) - start:
        # A shape with that many digits is not an honest mistake; the message doesn't repeat it.
        asked = f"{num_bytes} bytes" if num_bytes < 2**63 else "more bytes than there can be"
        raise MediaError(
            f"the .npy file's header asks for {asked}, and {len(data) - start} follow."
        )
    if num_bytes == 0:  # its other dimensions may be too large for NumPy
        raise MediaError("the .npy file holds no numbers; it must hold one at least.")
    array = np.frombuffer(data, dtype, offset=start)
    array = array.reshape(shape, order="F" if fortran_order else "C")
    return torch.from_numpy(np.array(array, dtype=dtype.newbyteorder("="), order="C"))


def _npy_header(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """The dtype, the shape, whether columns come first, and where the numbers begin."""
    try:
        wide = data[6] > 1
        (header_bytes,) = struct.unpack_from("<I" if wide else "<H", data, 8)
        start = (12 if wide else 10) + header_bytes
        text = data[start - header_bytes : start].decode("utf-8")
        if header_bytes > MAX_HEADER_BYTES or start > len(data) or "\\" in text:
            raise _damaged_npy()
        header = ast.literal_eval(text.strip())
    except Exception:  # a parser's errors quote the sender's text
        raise _damaged_npy() from None
    if not isinstance(header, dict) or header.keys() != _NPY_KEYS:
        raise _damaged_npy()
    descr, shape, fortran_order = header["descr"], header["shape"], header["fortran_order"]
    if not isinstance(descr, str) or not _NPY_NUMBERS.fullmatch(descr):
        raise MediaError(
            "the .npy file holds something else than floating-point numbers of 16 to 64 bits, "
            "integers or bool."
        )
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _damaged_npy()
    if len(shape) > MAX_DIMENSIONS or not isinstance(fortran_order, bool):
        raise _damaged_npy()
    return np.dtype(descr), shape, fortran_order, start


def _damaged_npy() -> MediaError:
    return MediaError("the .npy file's header is damaged, cut off or too long.")
