"""A recorded program does what the ops that were recorded do, on whatever lies there by then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from extension_cases import at_level, cpu_levels, require
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import (
    AttentionBatch,
    AttentionSpec,
    PagedAttention,
    add_rms_norm,
    extension,
    linear,
    rms_norm,
    silu_mul,
)
from sensorium.ops.program import NotRecordedError, Program

HEADS, KV_HEADS, HEAD_SIZE, SIZE, INNER, PAGE = 4, 2, 24, 96, 80, 16
SPEC = AttentionSpec(HEAD_SIZE**-0.5, None, None, False)
PAGED = PagedAttention()


class Layers:
    """Some decoder layers over inputs that stay where they are."""

    def __init__(self, rows: int, dtype: torch.dtype, num_layers: int = 3) -> None:
        draw = torch.Generator().manual_seed(rows)

        def random(*shape: int) -> Tensor:
            return (torch.randn(shape, generator=draw) * shape[-1] ** -0.5).to(dtype)

        width = (HEADS + 2 * KV_HEADS) * HEAD_SIZE
        shapes = {"qkv": (width, SIZE), "o": (SIZE, HEADS * HEAD_SIZE)}
        shapes |= {"gate_up": (2 * INNER, SIZE), "down": (SIZE, INNER)}
        self.weights = [{name: random(*s) for name, s in shapes.items()} for _ in range(num_layers)]
        self.norm = 1 + random(SIZE)
        self.rows, self.dtype = rows, dtype
        self.x = torch.zeros(rows, SIZE, dtype=dtype)
        self.cos, self.sin = (torch.zeros(rows, HEAD_SIZE // 2, dtype=dtype) for _ in range(2))
        num_pages = 40 * rows
        shape = (num_layers, 2, num_pages, PAGE, KV_HEADS, HEAD_SIZE)
        self.kv = torch.zeros(shape, dtype=dtype)
        self.batch = AttentionBatch(
            query_start=torch.arange(rows + 1, dtype=torch.int32),
            seq_lens=torch.ones(rows, dtype=torch.int32),
            page_table=torch.arange(num_pages, dtype=torch.int32).view(rows, 40),
            slot_mapping=torch.zeros(rows, dtype=torch.long),
            max_query_len=1,
            max_seq_len=40 * PAGE,
            lengths=(),
        )

    def fill(self, seed: int) -> None:
        """Other tokens at the ends of sequences of other lengths."""
        draw = torch.Generator().manual_seed(seed)
        self.x.copy_(torch.randn(self.x.shape, generator=draw))
        angles = torch.randn(self.cos.shape, generator=draw)
        self.cos.copy_(angles.cos())
        self.sin.copy_(angles.sin())
        self.kv.copy_(torch.randn(self.kv.shape, generator=draw))
        lengths = torch.randint(1, 40 * PAGE, (self.rows,), generator=draw)
        self.batch.seq_lens.copy_(lengths)
        last = lengths - 1
        pages = self.batch.page_table.long().gather(1, (last // PAGE)[:, None])[:, 0]
        self.batch.slot_mapping.copy_(pages * PAGE + last % PAGE)

    def __call__(self) -> Tensor:
        residual: Tensor | None = None
        x = self.x
        for weights, kv in zip(self.weights, self.kv, strict=True):
            if residual is None:
                x, residual = rms_norm(x, self.norm, 1e-6), x
            else:
                x, residual = add_rms_norm(x, residual, self.norm, 1e-6)
            q, k, v = (
                linear(x, weights["qkv"])
                .unflatten(-1, (-1, HEAD_SIZE))
                .split([HEADS, KV_HEADS, KV_HEADS], dim=1)
            )
            slots = self.batch.slot_mapping
            q = PAGED.rope_store_kv(q, k, v, self.cos, self.sin, kv, slots)
            x = linear(PAGED.paged_attention(q, kv, self.batch, SPEC).flatten(1), weights["o"])
            x, residual = add_rms_norm(x, residual, self.norm, 1e-6)
            x = linear(silu_mul(linear(x, weights["gate_up"])), weights["down"])
        return add_rms_norm(x, residual, self.norm, 1e-6)[0]


def same(out: Tensor, wanted: Tensor) -> None:
    """But for rounding: how attention's keys are split depends on threads and on bounds."""
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 2**-5}[out.dtype]
    torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wanted(layers: Layers, seed: int) -> tuple[Tensor, Tensor]:
    layers.fill(seed)
    out = layers().clone()
    return out, layers.kv.clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@settings(max_examples=8, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 3, 8, 13]), count=st.sampled_from([1, 2, 3, 7]), seed=st.integers(0)
)
def test_a_program_does_what_its_ops_do(
    dtype: torch.dtype, rows: int, count: int, seed: int
) -> None:
    require("cpu", dtype)
    layers = Layers(rows, dtype)
    with threads(count), torch.inference_mode():
        layers.fill(0)
        program = Program(layers)
        first = program.result.clone()
        out, kv = wanted(layers, 0)
        assert torch.equal(first, out)
        assert torch.equal(layers.kv, kv)
        for i in range(3):
            out, kv = wanted(layers, (seed + i) % 2**31)
            layers.fill((seed + i) % 2**31)
            same(program.run(), out)
            same(layers.kv, kv)


@pytest.mark.parametrize("level", cpu_levels())
def test_at_every_level_of_instructions(level: str) -> None:
    with at_level(level), torch.inference_mode():
        layers = Layers(5, torch.bfloat16)
        layers.fill(1)
        program = Program(layers)
        out, _ = wanted(layers, 2)
        layers.fill(2)
        same(program.run(), out)


def test_other_numbers_of_threads_than_it_was_recorded_with() -> None:
    require("cpu", torch.float32)
    layers = Layers(2, torch.float32)
    layers.fill(0)
    program = Program(layers)
    for count in (1, 4, 2, 9):
        with threads(count):
            out, _ = wanted(layers, count)
            layers.fill(count)
            same(program.run(), out)


def test_results_that_are_needed_no_more_make_room_for_others() -> None:
    require("cpu", torch.float32)
    few, many = (Program(Layers(4, torch.float32, count)) for count in (2, 20))
    assert many._memory.nbytes == few._memory.nbytes


def test_it_counts_its_calls() -> None:
    require("cpu", torch.float32)
    layers = Layers(1, torch.float32)
    before = extension.CALLS["cpu.linear"]
    program = Program(layers)
    assert extension.CALLS["cpu.linear"] - before == 12
    program.run()
    assert extension.CALLS["cpu.linear"] - before == 24


X = torch.ones(2, 8)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda: F.gelu(linear(X, X)), "it calls aten::gelu"),
        (lambda: linear(X, X) + 1, "it calls aten::add"),
        (lambda: linear(X, X).mul_(2), "it calls aten::mul_"),
        (lambda: linear(X, X).t().contiguous(), "it calls aten::(clone|contiguous)"),
        (
            lambda: linear(linear(X, X).t().reshape(1, 4), X[:, :4]),
            "it calls aten::(clone|reshape)",
        ),
        (lambda: linear(X.clone(), X), "it calls aten::clone"),
        (lambda: X, "its result is no op's result"),
        (lambda: X.view(16), "its result is no op's result"),
        (lambda: linear(X, X)[1:], "its result is a part"),
        (lambda: linear(X, X).t(), "its result is a part or another view"),
    ],
)
def test_what_no_program_can_do_is_refused(function: Callable[[], Tensor], sentence: str) -> None:
    require("cpu", torch.float32)
    with pytest.raises(NotRecordedError, match=sentence), torch.inference_mode():
        Program(function)
    recorded = Program(lambda: linear(X, X))
    assert torch.equal(recorded.run(), X @ X.T)


def test_a_function_that_fails_leaves_nothing_behind() -> None:
    require("cpu", torch.float32)

    def fail() -> Tensor:
        linear(X, X)
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        Program(fail)
    before = linear(X, X)
    recorded = Program(lambda: linear(X[:, :4], X[:, :4]))
    assert recorded.result.shape == before.shape
    assert recorded._memory.nbytes == 64


def test_a_program_gives_its_memory_back() -> None:
    require("cpu", torch.float32)

    def resident_kib() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4

    big = torch.ones(16, 16384)
    weight = torch.ones(16384, 16)
    few = torch.ones(16, 16)

    def make() -> None:
        assert Program(lambda: linear(few, weight)).run().shape == big.shape

    make()
    before = resident_kib()
    for _ in range(100):
        make()
    assert resident_kib() - before < 20 * big.nbytes // 1024
