"""Pre-computed embeddings: what a caller gave → rows that an engine may add to a prompt.

Everything harmful is refused here, before a request is admitted: sparse tensors, the wrong numbers,
rank or width, and values that are not finite. The model family decides how many rows an item may
have (``MediaAdapter.plan_embeds``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.errors import MediaError, RequestError
from sensorium.media.digest import Digest
from sensorium.media.tensors import decode_tensor_base64
from sensorium.types import GivenEmbeds

#: What a field beside the rows (a grid, a size) may take in base64.
MAX_FIELD_BYTES = 64 * 2**10
#: Numbers in one field of one item at most.
MAX_FIELD_NUMBERS = 1024


@dataclass(frozen=True, slots=True)
class Embeds:
    """One item's embeddings, checked.

    Attributes:
        rows: (tokens, width) floating point, dense, finite, on the CPU.
        fields: name → integers, on the CPU, without a dimension for the items: one that is given
            with such a dimension, as (1, n), has lost it.
    """

    rows: Tensor
    fields: Mapping[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """What the rows take."""
        return self.rows.numel() * self.rows.itemsize

    def digest(self) -> bytes:
        """32 bytes that tell this content from any other, dtype and shape included."""
        digest = Digest("sensorium embeds").add(str(self.rows.dtype)).add(tuple(self.rows.shape))
        digest.add(self.rows.view(torch.uint8).numpy())
        return digest.add({k: v.numpy() for k, v in self.fields.items()}).digest()

    def as_dtype(self, dtype: torch.dtype) -> Tensor:
        """The rows in the engine's dtype.

        Raises:
            MediaError: values that it can't hold.
        """
        rows = self.rows.to(dtype)
        if not bool(rows.isfinite().all()):
            raise MediaError(
                f"its embeddings hold values that are too large for the engine's {_name(dtype)}."
            )
        return rows


def check_embeds(
    given: GivenEmbeds, *, width: int, field_names: Sequence[str], max_bytes: int
) -> Embeds:
    """Reads and checks what a caller gave.

    Args:
        width: what a row must have: the hidden size, times one and the number of levels where
            the family's encoders make some (the levels behind the row itself).
        field_names: the fields that must come beside the rows; no others may.
        max_bytes: what the rows may take.

    Raises:
        MediaError: rows or a field that aren't what they must be.
        LimitError: more than ``max_bytes``.
        RequestError: a field that is missing, or that the family doesn't take.
    """
    if missing := [name for name in field_names if name not in given.fields]:
        raise RequestError(
            f"its embeddings came without {missing[0]}; this model places them by "
            f"{' and '.join(field_names)}."
        )
    if unknown := [name for name in given.fields if name not in field_names]:
        allowed = f"only {' and '.join(field_names)}" if field_names else "nothing"
        raise RequestError(
            f"its embeddings came with {unknown[0]}; this model takes {allowed} beside them."
        )
    rows = _rows(_tensor("its embeddings", given.rows, max_bytes), width)
    fields = {name: _field(name, given.fields[name]) for name in field_names}
    return Embeds(rows, fields)


def given_bytes(given: GivenEmbeds) -> int:
    """What reading them will allocate, about: base64 is decoded, other values may be copied."""
    rows = given.rows
    if isinstance(rows, str):
        return 3 * len(rows) // 4
    return rows.nbytes if isinstance(rows, (np.ndarray, Tensor)) and not _is_hollow(rows) else 0


def _is_hollow(rows: Any) -> bool:
    return isinstance(rows, Tensor) and rows.layout != torch.strided


def _rows(rows: Tensor, width: int) -> Tensor:
    if not rows.is_floating_point():
        raise MediaError(
            f"its embeddings are {_name(rows.dtype)}; they must be floating-point numbers."
        )
    if rows.dim() == 3 and rows.shape[0] == 1:
        rows = rows[0]
    shape = tuple(rows.shape)
    if rows.dim() != 2 or shape[1] != width or shape[0] < 1:
        raise MediaError(
            f"its embeddings have the shape {shape}; this model takes (tokens, {width})."
        )
    if rows.dtype not in (torch.float16, torch.bfloat16):
        rows = rows.float()  # from float64 and from eight bits
    if not bool(rows.isfinite().all()):
        raise MediaError("its embeddings hold values that are not finite.")
    return rows.contiguous()


def _field(name: str, value: Any) -> Tensor:
    tensor = _tensor(name, value, MAX_FIELD_BYTES)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise MediaError(f"{name} is {_name(tensor.dtype)}; it must hold integers.")
    if tensor.numel() > MAX_FIELD_NUMBERS:
        raise MediaError(
            f"{name} holds {tensor.numel()} numbers; at most {MAX_FIELD_NUMBERS} are allowed."
        )
    if tensor.dim() == 2 and tensor.shape[0] == 1:
        tensor = tensor[0]
    return tensor.to(torch.int64).contiguous()


def _tensor(what: str, value: Any, max_bytes: int) -> Tensor:
    """A dense tensor on the CPU, from any of the accepted forms."""
    if isinstance(value, str):
        return decode_tensor_base64(value, max_bytes=max_bytes)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiu":
            raise MediaError(f"{what} is an array of {value.dtype}; it must hold numbers.")
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            raise MediaError(f"{what} is a sparse, quantised or empty tensor; it must be dense.")
        return value.detach().cpu()
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    if not numbers or not all(type(n) is int and abs(n) < 2**63 for n in numbers):
        raise MediaError(
            f"{what} is a {type(value).__name__}; allowed are a tensor, an array, or one in "
            "base64, and integers where a field has them."
        )
    return torch.tensor(numbers, dtype=torch.int64)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
