"""Building blocks of the decoder: projections and norms.

Parameters are created empty, in their final dtype and on their final device; loading fills
them. Projections that read the same input are fused into one matrix, and ``weight_slots``
shows loading where each published part of it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sensorium.errors import ConfigError
from sensorium.ops import add_rms_norm, linear, rms_norm, silu_mul

#: ``hidden_act`` → function; another is added by one line.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function that ``hidden_act`` names.

    Raises:
        ConfigError: it isn't built.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"hidden_act is {name!r}; built are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


class FusedLinear(nn.Module):
    """Several projections of the same input as one matrix.

    Args:
        parts: the projections' own names and output sizes, in order.
        multiple: each part is padded with rows of zeros to a multiple of this; its results are as
            wide.
    """

    def __init__(
        self,
        in_size: int,
        parts: Mapping[str, int],
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.parts = dict(parts)
        self.stored = [_padded(size, multiple) for size in parts.values()]
        out_size = sum(self.stored)
        make = _empty if self.stored == list(parts.values()) else _zeros
        self.weight = make(out_size, in_size, dtype=dtype, device=device)
        self.bias = make(out_size, dtype=dtype, device=device) if bias else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(…, in_size) → one (…, size) for each part."""
        return torch.split(self.joined(x), self.stored, dim=-1)

    def joined(self, x: Tensor) -> Tensor:
        """(…, in_size) → (…, sum of the sizes)."""
        return linear(x, self.weight, self.bias)


class Linear(nn.Module):
    """One projection.

    Args:
        multiple: its inputs are padded to a multiple of this; the padding is ignored.
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self.in_size = in_size
        stored = _padded(in_size, multiple)
        make = _empty if stored == in_size else _zeros
        self.weight = make(out_size, stored, dtype=dtype, device=device)
        self.bias = _empty(out_size, dtype=dtype, device=device) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_size) → (…, out_size)."""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """A row for each token of the vocabulary."""

    def __init__(
        self, num_rows: int, size: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = _empty(num_rows, size, dtype=dtype, device=device)

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) int64 → (N, size)."""
        return F.embedding(ids, self.weight)


class RMSNorm(nn.Module):
    """``rms_norm`` with its weight.

    Args:
        wide, offset: as for ``rms_norm``.
    """

    def __init__(
        self,
        size: int,
        eps: float,
        *,
        dtype: torch.dtype,
        device: torch.device,
        wide: bool = False,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = _empty(size, dtype=dtype, device=device)
        self.eps, self.wide, self.offset = eps, wide, offset

    def forward(self, x: Tensor) -> Tensor:
        """(…, size) → (…, size)."""
        return rms_norm(x, self.weight, self.eps, wide=self.wide, offset=self.offset)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of x + residual (of x, without one), and that sum: (N, size) each.

        ``residual`` may be changed in place.
        """
        if residual is None:
            return self(x), x
        return add_rms_norm(x, residual, self.weight, self.eps, wide=self.wide, offset=self.offset)


class NoNorm(nn.Module):
    """The identity, in place of other decoders' norm."""

    def forward(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + residual (``x``, without one), twice."""
        total = x if residual is None else x + residual
        return total, total


class GatedMLP(nn.Module):
    """down(activation(gate(x)) · up(x)) (Shazeer 2020).

    Args:
        multiple: the inner size is padded to a multiple of this with rows and columns of zeros:
            matrix units are slow on sizes that aren't (a tower's 3420 is a multiple of 4 alone).
    """

    def __init__(
        self,
        size: int,
        intermediate_size: int,
        act: str,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
        multiple: int = 1,
    ) -> None:
        super().__init__()
        self._act = activation(act)
        parts = {"gate_proj": intermediate_size, "up_proj": intermediate_size}
        self.gate_up_proj = FusedLinear(
            size, parts, bias=bias, dtype=dtype, device=device, multiple=multiple
        )
        self.down_proj = Linear(
            intermediate_size, size, bias=bias, dtype=dtype, device=device, multiple=multiple
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, size) → (…, size)."""
        if self._act is F.silu:
            return self.down_proj(silu_mul(self.gate_up_proj.joined(x)))  # type: ignore[no-any-return]
        gate, up = self.gate_up_proj(x)
        return self.down_proj(self._act(gate) * up)  # type: ignore[no-any-return]


def weight_slots(module: nn.Module) -> dict[str, Tensor]:
    """Where weights go: name → the tensor to copy into.

    These are the module's parameters and persistent buffers, but a fused projection's are
    shown part by part under the parts' own names: of ``self_attn.qkv_proj.weight`` the rows
    of ``self_attn.q_proj.weight`` and so on. Padding is not shown.
    """
    slots = {name: tensor.detach() for name, tensor in module.state_dict(keep_vars=True).items()}
    for path, child in module.named_modules():
        if isinstance(child, Linear):
            name = f"{path}.weight" if path else "weight"
            slots[name] = slots[name][:, : child.in_size]
        if not isinstance(child, FusedLinear):
            continue
        parent = path.rpartition(".")[0]
        for kind in ("weight", "bias"):
            whole = slots.pop(f"{path}.{kind}", None)
            if whole is None:
                continue
            stored = whole.split(child.stored)
            for (part, size), rows in zip(child.parts.items(), stored, strict=True):
                slots[".".join(filter(None, (parent, part, kind)))] = rows[:size]
    return slots


def fused_slots(module: nn.Module) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """Where fused projections go that a file holds as one matrix, as Phi-3's do.

    Returns:
        A fused tensor's name → the tensor, and the names of its parts in ``weight_slots``.
    """
    fused: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
    for path, child in module.named_modules():
        if isinstance(child, FusedLinear) and child.stored == list(child.parts.values()):
            parent = path.rpartition(".")[0]
            for kind, whole in child.named_parameters(recurse=False):
                parts = tuple(".".join(filter(None, (parent, part, kind))) for part in child.parts)
                fused[f"{path}.{kind}"] = (whole.detach(), parts)
    return fused


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, dtype=dtype, device=device), requires_grad=False)


def _empty(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
