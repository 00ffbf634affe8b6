"""Every op refuses arguments that break its contract, before it writes anything.

One table: an op, an argument, what is wrong with it, and the words of the refusal, which name the
op and an argument. A test makes sure that no argument of any op is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from extension_cases import PLACES, compiled, require
from torch import Tensor

from sensorium.ops.fakes import FAKES

PLACES_OF_CONTRACTS = [PLACES[0], PLACES[2]]
HEADS, KV_HEADS, SIZE, TOKENS, WIDTH = 4, 2, 64, 3, 16


def sound(op: str, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of ``op`` that it takes, by name, in the schema's order."""

    def real(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=dtype, device=device)

    def whole(*values: Any, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    heads, keys = real(TOKENS, HEADS, SIZE), real(TOKENS, KV_HEADS, SIZE)
    kv, slots = real(2, 5, 16, KV_HEADS, SIZE), whole(0, 1, 2, dtype=torch.int64)
    store = {"k": keys, "v": keys.clone(), "kv": kv, "slot_mapping": slots}
    norm = {"weight": real(WIDTH), "eps": 1e-6, "wide": False, "offset": 0.0}
    turn = {"cos": real(TOKENS, SIZE // 2), "sin": real(TOKENS, SIZE // 2)}
    return {
        "paged_attention": {
            "q": heads,
            "kv": kv,
            "query_start": whole(0, 2, 3),
            "seq_lens": whole(20, 9),
            "page_table": whole([0, 1], [2, 3]),
            "reach": whole([0, 3], [0, 3], [8, 9]),
            "max_query_len": 2,
            "max_seq_len": 20,
            "scale": 0.1,
            "window": 0,
            "soft_cap": 0.0,
        },
        "varlen_attention": {
            "q": heads,
            "k": keys,
            "v": keys.clone(),
            "cu_seqlens": whole(0, 2, 3),
            "max_len": 2,
            "scale": 0.1,
            "causal": False,
        },
        "store_kv": store,
        "rope_store_kv": {
            "q": heads,
            "k": keys,
            "v": keys.clone(),
            **turn,
            "kv": kv,
            "slot_mapping": slots,
        },
        "rope": {"x": heads, **{name: x.float() for name, x in turn.items()}},
        "rms_norm": {"x": real(TOKENS, WIDTH), **norm},
        "add_rms_norm": {"x": real(TOKENS, WIDTH), "residual": real(TOKENS, WIDTH), **norm},
        "silu_mul": {"x": real(TOKENS, 2 * WIDTH)},
        "linear": {"x": real(TOKENS, WIDTH), "weight": real(5, WIDTH), "bias": real(5)},
        "log_spectra": {
            "samples": real(20).float(),
            "window": real(8).double(),
            "bank": real(5, 3).float(),
            "hop": 4,
            "least": 1e-10,
        },
    }[op]


@dataclass(frozen=True, slots=True)
class Wrong:
    """One broken contract.

    Attributes:
        kind: which part of the contract.
        change: the sound value → the wrong one.
        words: what the refusal says behind the op's name, a regular expression.
        on: the only device where the case can occur; None: both.
    """

    op: str
    argument: str
    kind: str
    change: Callable[[Any], Any]
    words: str
    on: str | None = None


def longer(dim: int) -> Callable[[Tensor], Tensor]:
    """One element more in a dimension."""

    def change(x: Tensor) -> Tensor:
        shape = list(x.shape)
        shape[dim] += 1
        return x.new_ones(shape)

    return change


def thinned(x: Tensor) -> Tensor:
    """The same values with a gap behind each."""
    return x.repeat_interleave(2, -1)[..., ::2]


def apart(x: Tensor) -> Tensor:
    """The same values with a gap behind each row."""
    return torch.cat([x, x], -1)[..., : x.shape[-1]]


def to(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The same values in another dtype."""
    return lambda x: x.to(dtype)


def value(wrong: float) -> Callable[[Any], Any]:
    """Another number."""
    return lambda _: wrong


#: (op, argument) → dimensions that must have a given size, and what is said if one is larger.
SIZES: dict[tuple[str, str], dict[int, str]] = {
    ("paged_attention", "q"): {0: "reach has size 3 in dimension 0", 1: "kv has 2 key heads"}
    | {2: "kv has size 64 in dimension 4"},
    ("paged_attention", "kv"): {0: "kv has size 3", 3: "kv has 3 key heads", 4: "kv has size 65"},
    ("paged_attention", "query_start"): {0: "query_start has size 4"},
    ("paged_attention", "seq_lens"): {0: "query_start has size 3"},
    ("paged_attention", "page_table"): {0: "page_table has size 3"},
    ("paged_attention", "reach"): {0: "reach has size 4", 1: "reach has size 3"},
    ("varlen_attention", "q"): {0: "k has size 3", 1: "k has 2 key heads", 2: "k has size 64"},
    ("varlen_attention", "k"): {0: "k has size 4", 1: "v has size 2", 2: "k has size 65"},
    ("varlen_attention", "v"): {0: "v has size 4", 1: "v has size 3", 2: "v has size 65"},
    ("store_kv", "k"): {0: "v has size 3", 1: "v has size 2", 2: "v has size 64"},
    ("store_kv", "v"): {0: "v has size 4", 1: "v has size 3", 2: "v has size 65"},
    ("store_kv", "kv"): {0: "kv has size 3", 3: "kv has size 3", 4: "kv has size 65"},
    ("store_kv", "slot_mapping"): {0: "slot_mapping has size 4"},
    ("rope_store_kv", "q"): {0: "q has size 4", 2: "q has size 65"},
    ("rope_store_kv", "k"): {0: "v has size 3", 1: "v has size 2", 2: "v has size 64"},
    ("rope_store_kv", "v"): {0: "v has size 4", 1: "v has size 3", 2: "v has size 65"},
    ("rope_store_kv", "cos"): {0: "cos has size 4", 1: "sin has size 32 in dimension 1"},
    ("rope_store_kv", "sin"): {0: "sin has size 4", 1: "sin has size 33"},
    ("rope_store_kv", "kv"): {0: "kv has size 3", 3: "kv has size 3", 4: "kv has size 65"},
    ("rope_store_kv", "slot_mapping"): {0: "slot_mapping has size 4"},
    ("rope", "x"): {0: "cos has size 3"},
    ("rope", "cos"): {0: "cos has size 4", 1: "sin has size 32 in dimension 1"},
    ("rope", "sin"): {0: "sin has size 4", 1: "sin has size 33"},
    ("rms_norm", "x"): {1: "weight has size 16"},
    ("rms_norm", "weight"): {0: "weight has size 17"},
    ("add_rms_norm", "x"): {0: "residual has size 3", 1: "weight has size 16"},
    ("add_rms_norm", "residual"): {0: "residual has size 4", 1: "residual has size 17"},
    ("add_rms_norm", "weight"): {0: "weight has size 17"},
    ("silu_mul", "x"): {1: "x has 33 columns"},
    ("linear", "x"): {1: "weight has size 16"},
    ("linear", "weight"): {0: "bias has size 5", 1: "weight has size 17"},
    ("linear", "bias"): {0: "bias has size 6"},
    ("log_spectra", "window"): {0: "window has size 9; allowed are"},
    ("log_spectra", "bank"): {0: "bank has size 6"},
}
#: Rows must lie one behind another.
CONTIGUOUS = [
    ("paged_attention", "kv"),
    ("paged_attention", "reach"),
    ("store_kv", "kv"),
    ("rope_store_kv", "kv"),
    ("rope_store_kv", "cos"),
    ("rope_store_kv", "sin"),
    ("rope", "cos"),
    ("rope", "sin"),
    ("add_rms_norm", "residual"),
    ("log_spectra", "bank"),
]
#: Which argument is found to be elsewhere where the one that all are compared with is.
BESIDE = {"paged_attention": "kv", "varlen_attention": "k", "store_kv": "v", "rope_store_kv": "v"}
BESIDE |= {"rope": "cos", "rms_norm": "weight", "add_rms_norm": "weight"}
FIRST = {"paged_attention": "q", "varlen_attention": "q", "store_kv": "k", "rope_store_kv": "k"}
FIRST |= dict.fromkeys(("rope", "rms_norm", "add_rms_norm", "silu_mul", "linear"), "x")
FIRST |= {"log_spectra": "samples"}
TOO_MUCH = 2**31
NUMBERS = [
    Wrong("paged_attention", "max_query_len", "value", value(-1), "max_query_len is -1"),
    Wrong("paged_attention", "max_query_len", "value", value(21), "max_query_len is 21"),
    Wrong("paged_attention", "max_query_len", "value", value(2**32), "max_query_len is 4294967296"),
    Wrong("paged_attention", "max_seq_len", "value", value(33), "max_seq_len is 33"),
    Wrong("paged_attention", "max_seq_len", "value", value(2**32), "max_seq_len is 4294967296"),
    Wrong("paged_attention", "window", "value", value(-1), "window is -1"),
    Wrong("paged_attention", "window", "value", value(TOO_MUCH), "window is 2147483648; allowed"),
    Wrong("paged_attention", "window", "value", value(2**32), "window is 4294967296; allowed"),
    Wrong("paged_attention", "soft_cap", "value", value(-1.0), "soft_cap is -1"),
    Wrong("paged_attention", "scale", "value", value(0.0), "scale is 0", "cuda"),
    Wrong("varlen_attention", "max_len", "value", value(-1), "max_len is -1"),
    Wrong("varlen_attention", "max_len", "value", value(4), "max_len is 4"),
    Wrong("varlen_attention", "max_len", "value", value(2**32), "max_len is 4294967296"),
    Wrong("varlen_attention", "cu_seqlens", "size", lambda x: x[:0], "cu_seqlens is empty"),
    Wrong("varlen_attention", "scale", "value", value(0.0), "scale is 0", "cuda"),
    Wrong("rms_norm", "offset", "value", value(1.0), "offset is 1; it must be 0"),
    Wrong("add_rms_norm", "offset", "value", value(1.0), "offset is 1; it must be 0"),
    Wrong("log_spectra", "hop", "value", value(0), "hop is 0; it must be 1 at least"),
    Wrong("log_spectra", "least", "value", value(0.0), "least is 0; it must be a normal number"),
    Wrong("log_spectra", "samples", "size", lambda x: x[:7], "samples has size 7; the window has"),
    Wrong("log_spectra", "window", "size", lambda x: x.new_ones(14), "window has size 14; allowed"),
]
#: Numbers of which every value is allowed.
ANY_VALUE = {"eps", "wide", "causal"}


def tensors(op: str) -> list[str]:
    """The arguments of ``op`` that are tensors."""
    return [name for name, given in sound(op, "cpu", torch.float32).items() if _is_tensor(given)]


def table() -> list[Wrong]:
    """Every case."""
    cases = list(NUMBERS)
    for op in FAKES:
        given = sound(op, "cpu", torch.float32)
        for name in tensors(op):
            dims = given[name].dim()
            # A norm takes rows, or heads of rows.
            more: Callable[[Tensor], Tensor] = (
                (lambda x: x[None, None]) if (op, name) == ("rms_norm", "x") else lambda x: x[None]
            )
            said = dims + (2 if (op, name) == ("rms_norm", "x") else 1)
            cases.append(
                Wrong(op, name, "dims", more, f"{name} has {said} dimensions; it must have {dims}")
            )
            for dim, words in SIZES.get((op, name), {}).items():
                cases.append(Wrong(op, name, "size", longer(dim), words))
            other = _other(given[name].dtype)
            spelt = str(other).removeprefix("torch.")
            cases.append(Wrong(op, name, "dtype", to(other), f"{name} has dtype {spelt}"))
            cases.append(Wrong(op, name, "stride", thinned, f"{name} has stride 2"))
            # The CPU's op never meets another device's tensor: the dispatcher calls the other op.
            found = BESIDE.get(op) if name == FIRST[op] else name
            if found and compiled(op, "cuda"):
                words = f"{found} is on another device"
                cases.append(Wrong(op, name, "device", lambda x: x.cpu(), words, "cuda"))
    cases += [Wrong(op, name, "stride", apart, f"{name} has stride") for op, name in CONTIGUOUS]
    return cases


def _is_tensor(given: Any) -> bool:
    return isinstance(given, Tensor)


def _other(dtype: torch.dtype) -> torch.dtype:
    swaps = {torch.int32: torch.int64, torch.int64: torch.int32, torch.float64: torch.float32}
    return swaps.get(dtype, torch.float64)


def refused(op: str, given: dict[str, Any], words: str) -> None:
    """The op says why it doesn't take what is given."""
    with pytest.raises(RuntimeError, match=rf"sensorium::{op}: {words}"):
        getattr(torch.ops.sensorium, op)(*given.values())


@pytest.mark.parametrize(
    ("case", "device", "dtype"),
    [
        pytest.param(
            case,
            *place.values,
            id=f"{place.id}-{case.op}-{case.argument}-{case.kind}",
            marks=place.marks,
        )
        for place in PLACES_OF_CONTRACTS
        for case in table()
        if case.on in (None, place.values[0]) and compiled(case.op, place.values[0])
    ],
)
def test_what_breaks_a_contract_is_refused(case: Wrong, device: str, dtype: torch.dtype) -> None:
    require(device, dtype)
    given = sound(case.op, device, dtype)
    given[case.argument] = case.change(given[case.argument])
    before = [x.clone() for x in given.values() if isinstance(x, Tensor)]
    refused(case.op, given, case.words)
    after = [x for x in given.values() if isinstance(x, Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "it wrote"


@pytest.mark.parametrize(("device", "dtype"), PLACES_OF_CONTRACTS)
def test_what_only_several_arguments_break_is_refused(device: str, dtype: torch.dtype) -> None:
    require(device, dtype)
    for op in ("rope_store_kv", "rope"):
        given = sound(op, device, dtype)
        turns = dict.fromkeys(("cos", "sin"), given["cos"].new_ones(TOKENS, 33))
        refused(op, given | turns, "cos turns 66 elements of heads of size 64")
    # A batch of nothing has room for any number of tokens.
    given = sound("paged_attention", device, dtype) | {"reach": None, "max_query_len": 0}
    given |= {"q": given["q"][:0], "query_start": given["query_start"][:1]}
    given |= {"seq_lens": given["seq_lens"][:0]}
    given["page_table"] = given["page_table"].new_zeros(0, 2**30)
    beside = sound("varlen_attention", device, dtype)
    for length in (TOO_MUCH, 2**32 + 1):
        given["max_seq_len"] = length
        refused("paged_attention", given, "max_seq_len is")
        refused("paged_attention", given | {"max_query_len": length}, "max_query_len is")
        refused("varlen_attention", beside | {"max_len": length}, "max_len is")


# log_spectra takes float32 alone.
@pytest.mark.parametrize("op", [op for op in FAKES if op != "log_spectra"])
def test_half_precision_of_the_other_kind_is_refused_on_the_cpu(op: str) -> None:
    require("cpu", torch.float32)
    given = sound(op, "cpu", torch.float16)
    refused(op, given, f"{FIRST[op]} has dtype float16; on the CPU allowed are")


def test_what_a_batch_points_at_is_checked_on_the_cpu() -> None:
    require("cpu", torch.float32)
    ops = torch.ops.sensorium
    kv, k = torch.zeros(2, 3, 4, 1, 8), torch.zeros(1, 1, 8)
    with pytest.raises(RuntimeError, match="slot_mapping holds 12; the cache has 12 slots"):
        ops.store_kv(k, k, kv, torch.tensor([12]))

    def attend(start: list[int], lens: list[int], table: list[list[int]]) -> None:
        given = (torch.tensor(x, dtype=torch.int32) for x in (start, lens, table))
        ops.paged_attention(torch.zeros(1, 1, 8), kv, *given, None, 1, 8, 0.1, 0, 0.0)

    attend([0, 1], [5], [[0, 2]])
    with pytest.raises(RuntimeError, match="page_table holds 3; the cache has 3 pages"):
        attend([0, 1], [5], [[0, 3]])
    with pytest.raises(RuntimeError, match="seq_lens holds 9; allowed are 0 to 8"):
        attend([0, 1], [9], [[0, 1]])
    with pytest.raises(RuntimeError, match="query_start"):
        attend([0, 2], [5], [[0, 1]])


@pytest.mark.parametrize(
    ("op", "device", "dtype"),
    [
        pytest.param(op, *place.values, id=f"{op}-{place.id}", marks=place.marks)
        for op in FAKES
        for place in PLACES_OF_CONTRACTS
        if compiled(op, place.values[0])
    ],
)
def test_what_keeps_them_is_taken(op: str, device: str, dtype: torch.dtype) -> None:
    require(device, dtype)
    result = getattr(torch.ops.sensorium, op)(*sound(op, device, dtype).values())
    assert result is None or bool(result.isfinite().all())


def test_the_largest_window_hides_nothing() -> None:
    require("cpu", torch.float32)
    given = sound("paged_attention", "cpu", torch.float32)
    given["kv"] = torch.randn_like(given["kv"])
    everything = torch.ops.sensorium.paged_attention(*given.values())
    given["window"] = TOO_MUCH - 1
    assert torch.equal(torch.ops.sensorium.paged_attention(*given.values()), everything)


@pytest.mark.parametrize("op", FAKES)
def test_no_argument_is_left_out(op: str) -> None:
    require("cpu", torch.float32)
    given = sound(op, "cpu", torch.float32)
    schema = getattr(torch.ops.sensorium, op).default._schema
    assert [argument.name for argument in schema.arguments] == list(given)
    cases = {(case.argument, case.kind) for case in table() if case.op == op}
    for name in given:
        if name in tensors(op):
            missing = {"dims", "size", "dtype", "stride"} - {k for n, k in cases if n == name}
            assert not missing, f"{op}: {name} has no case of {missing}"
        elif name not in ANY_VALUE:
            assert (name, "value") in cases, f"{op}: {name} has no case"
