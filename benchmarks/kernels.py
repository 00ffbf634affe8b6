"""The extension's ops against torch's best way of doing the same, beside their bounds.

    python benchmarks/kernels.py [--device cpu|cuda] [--repeats 5] [--only decode] [--general]
                                 [--json FILE]

Each line: the op and its shape; microseconds of ours and of torch's (medians; on CUDA of replays
of a captured graph, so that launches cost both the same); torch's over ours; the bound, which is
the larger of the bytes that must move over the copy bandwidth and the operations over the matrix
rate, both measured in this run; and how much of ours the bound is. torch's way on pages is to
gather them and to call its attention; on CUDA that is its FlashAttention-2.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sensorium.ops import AttentionBatch, AttentionSpec, PagedAttention, Segments, extension
from sensorium.ops.rope import apply_rope

PAGE = 16
PAGED = PagedAttention()


@dataclass(frozen=True)
class Case:
    """One line: what is computed, twice, and what it costs at least.

    Attributes:
        ours, theirs: called without arguments; inputs lie in wait.
        bytes: that must be read or written.
        flops: of matrix products that must be done.
    """

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    bytes: float
    flops: float = 0.0


@dataclass(frozen=True)
class Line:
    """What was measured of a case, in microseconds."""

    name: str
    ours_us: float
    theirs_us: float
    bound_us: float
    bytes: float
    flops: float


class Clock:
    """Times calls on one device; knows its ceilings.

    Attributes:
        copy: bytes a second, read and written.
        matrix: operations a second of a large product in ``dtype``.
    """

    def __init__(self, device: str, dtype: torch.dtype, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        size = 2**30 if device == "cuda" else 2**27  # bytes, far more than any cache
        source, target = (torch.ones(size // 4, device=device) for _ in range(2))
        self.copy = 2 * size / (self(lambda: torch.neg(source, out=target)) * 1e-6)
        side = 8192 if device == "cuda" else 1024
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        self.matrix = 2 * side**3 / (self(lambda: a @ b) * 1e-6)

    def __call__(self, work: Callable[[], object]) -> float:
        """Microseconds of one call."""
        return self._on_cuda(work) if self.device == "cuda" else self._on_cpu(work)

    def _on_cpu(self, work: Callable[[], object]) -> float:
        work()
        start = time.perf_counter()
        work()
        count = max(1, int(0.02 / max(time.perf_counter() - start, 1e-7)))
        times = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            for _ in range(count):
                work()
            times.append((time.perf_counter() - start) / count)
        return statistics.median(times) * 1e6

    def _on_cuda(self, work: Callable[[], object]) -> float:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            work()
            work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(4):
                work()
        graph.replay()
        times = []
        for _ in range(self.repeats):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(5):
                graph.replay()
            last.record()
            torch.cuda.synchronize()
            times.append(first.elapsed_time(last) / 20)
        return statistics.median(times) * 1e3


def paged_batch(
    lengths: list[tuple[int, int]], kv_heads: int, size: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, AttentionBatch]:
    """A cache with shuffled pages, and the batch."""
    counts = [-(-total // PAGE) for _, total in lengths]
    order = torch.randperm(sum(counts), device=device, dtype=torch.int32)
    table = torch.zeros(len(lengths), max(counts), dtype=torch.int32, device=device)
    for b, own in enumerate(torch.split(order, counts)):
        table[b, : len(own)] = own
    kv = torch.randn(2, len(order), PAGE, kv_heads, size, device=device, dtype=dtype)
    starts = torch.tensor([0, *(n for n, _ in lengths)]).cumsum(0)
    batch = AttentionBatch(
        query_start=starts.int().to(device),
        seq_lens=torch.tensor([t for _, t in lengths], dtype=torch.int32, device=device),
        page_table=table,
        slot_mapping=torch.zeros(0, dtype=torch.int64, device=device),
        max_query_len=max(n for n, _ in lengths),
        max_seq_len=max(t for _, t in lengths),
        lengths=tuple(lengths),
    )
    return kv, batch


def gather_and_attend(q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float) -> Tensor:
    """Torch's way, for sequences of one length: gather the pages, then its own attention."""
    count, heads = len(batch.lengths), q.shape[1]
    query_len, total = batch.lengths[0]
    keys, values = (kv[i][batch.page_table].flatten(1, 2)[:, :total] for i in range(2))
    if q.is_cuda and query_len == total:
        starts = batch.query_start
        out: Tensor = torch.ops.aten._flash_attention_forward(
            *(q, keys.flatten(0, 1), values.flatten(0, 1), starts, starts, total, total),
            *(0.0, True, False),
            scale=scale,
        )[0]
        return out
    return F.scaled_dot_product_attention(
        q.view(count, query_len, heads, -1).transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        is_causal=query_len == total,
        scale=scale,
        enable_gqa=True,
    )


def paged_case(
    count: int, query: int, total: int, heads: int, kv_heads: int, size: int, where: Clock
) -> Case:
    """``count`` sequences of one length: decode where ``query`` is 1."""
    dtype = _dtype(where)
    kv, batch = paged_batch([(query, total)] * count, kv_heads, size, dtype, where.device)
    q = torch.randn(count * query, heads, size, device=where.device, dtype=dtype)
    spec = AttentionSpec(size**-0.5)
    seen = query * total - query * (query - 1) // 2
    return Case(
        f"{'decode' if query == 1 else 'prefill'} {count}×{total}, {heads}/{kv_heads} of {size}",
        lambda: PAGED.paged_attention(q, kv, batch, spec),
        lambda: gather_and_attend(q, kv, batch, spec.scale),
        bytes=2.0 * count * total * kv_heads * size * dtype.itemsize + 2 * q.nbytes,
        flops=4.0 * count * seen * heads * size,
    )


def tower_case(count: int, length: int, heads: int, size: int, where: Clock) -> Case:
    """Sequences side by side, no mask."""
    dtype = _dtype(where)
    shape = (count * length, heads, size)
    q, k, v = (torch.randn(shape, device=where.device, dtype=dtype) for _ in range(3))
    segments = Segments([length * i for i in range(count + 1)], q.device)
    starts, scale = segments.on_device, size**-0.5

    def ours() -> Tensor:
        out: Tensor = torch.ops.sensorium.varlen_attention(q, k, v, starts, length, scale, False)
        return out

    def theirs() -> Tensor:
        if q.is_cuda:
            flash = torch.ops.aten._flash_attention_forward
            result: Tensor = flash(
                *(q, k, v, starts, starts, length, length, 0.0, False, False), scale=scale
            )[0]
            return result
        split = (x.view(count, length, heads, size).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(*split, scale=scale)

    flops = 4.0 * count * length**2 * heads * size
    return Case(f"tower {count}×{length}, {heads} of {size}", ours, theirs, 4.0 * q.nbytes, flops)


def elementwise_cases(rows: int, width: int, where: Clock) -> Iterator[Case]:
    """Norm with residual, the gate, rope with the store."""
    dtype, device = _dtype(where), where.device
    x, residual = (torch.randn(rows, width, device=device, dtype=dtype) for _ in range(2))
    weight = torch.randn(width, device=device, dtype=dtype)
    ops = torch.ops.sensorium

    def norm() -> Tensor:
        return F.rms_norm(residual.add_(x), (width,), weight, 1e-6)

    yield Case(
        f"norm with residual {rows}×{width}",
        lambda: ops.add_rms_norm(x, residual, weight, 1e-6),
        norm,
        bytes=4.0 * x.nbytes,
    )
    gate_up = torch.randn(rows, 8 * width, device=device, dtype=dtype)

    def gate() -> Tensor:
        first, second = gate_up.chunk(2, dim=-1)
        return F.silu(first) * second

    yield Case(
        f"silu-mul {rows}×{4 * width}",
        lambda: ops.silu_mul(gate_up),
        gate,
        bytes=1.5 * gate_up.nbytes,
    )
    heads, size = width // 128, 128
    q = torch.randn(rows, heads, size, device=device, dtype=dtype)
    k, v = (torch.randn(rows, 2, size, device=device, dtype=dtype) for _ in range(2))
    kv = torch.zeros(2, -(-rows // PAGE), PAGE, 2, size, device=device, dtype=dtype)
    slots = torch.randperm(rows, device=device)
    cos, sin = (torch.randn(rows, size // 2, device=device, dtype=dtype) for _ in range(2))
    patches = torch.randn(rows, 3 * 16, 80, device=device, dtype=dtype)[:, : 2 * 16]
    angles = torch.randn(rows, 40, device=device)
    tables = torch.stack([angles.cos(), angles.sin()])

    def turn() -> None:
        patches.copy_(apply_rope(patches.float(), *tables[:, :, None]))

    yield Case(
        f"tower's rope {rows}×32 of 80",
        lambda: ops.rope(patches, *tables),
        turn,
        bytes=2.0 * patches.nbytes + tables.nbytes,
    )

    def store() -> Tensor:
        turned = apply_rope(k, cos[:, None], sin[:, None])
        kv[0].flatten(0, 1).index_copy_(0, slots, turned)
        kv[1].flatten(0, 1).index_copy_(0, slots, v)
        return apply_rope(q, cos[:, None], sin[:, None])

    yield Case(
        f"rope and store {rows}×{heads}/2 of {size}",
        lambda: ops.rope_store_kv(q, k, v, cos, sin, kv, slots),
        store,
        bytes=2.0 * (q.nbytes + k.nbytes + v.nbytes) + 2 * cos.nbytes,
    )


#: (inputs, outputs) of each product of a layer of SmolLM2-135M, of its 30 layers, and of its head.
SMOLLM2 = [*[(576, 960), (576, 576), (576, 3072), (1536, 576)] * 30, (576, 49152)]


def linear_cases(where: Clock, dtype: torch.dtype) -> Iterator[Case]:
    """All products of a small model on the CPU: each has its own weights, which no cache holds."""
    weights = [torch.randn(out_size, in_size, dtype=dtype) for in_size, out_size in SMOLLM2]
    for rows in (1, 2, 4, 8, 16, 64, 256):
        inputs = {size: torch.randn(rows, size, dtype=dtype) for size in (576, 1536)}

        def all_by(
            product: Callable[..., object], inputs: dict[int, torch.Tensor] = inputs
        ) -> Callable[[], None]:
            def run() -> None:
                for weight in weights:
                    product(inputs[weight.shape[1]], weight, None)

            return run

        yield Case(
            f"products of SmolLM2-135M, {rows} rows, {str(dtype).removeprefix('torch.')}",
            all_by(torch.ops.sensorium.linear),
            all_by(F.linear),
            bytes=float(sum(weight.nbytes for weight in weights)),
        )


def cases(where: Clock) -> Iterator[Case]:
    """All lines of a device."""
    if where.device == "cuda":
        for count, total in ((1, 8192), (1, 32768), (16, 4096), (64, 2048), (256, 1024)):
            yield paged_case(count, 1, total, 16, 2, 128, where)
        yield paged_case(64, 1, 2048, 32, 8, 128, where)
        yield paged_case(64, 1, 2048, 32, 32, 128, where)
        for size in (64, 256):
            yield paged_case(64, 1, 2048, 16, 4, size, where)
        yield paged_case(1, 8192, 8192, 16, 2, 128, where)
        yield paged_case(8, 2048, 2048, 16, 2, 128, where)
        yield paged_case(8, 2048, 2048, 32, 8, 64, where)
        yield paged_case(8, 2048, 2048, 8, 4, 256, where)
        yield tower_case(16, 1024, 16, 80, where)
        yield tower_case(256, 64, 16, 80, where)
        yield tower_case(16, 577, 16, 64, where)
        for rows in (64, 8192):
            yield from elementwise_cases(rows, 2048, where)
        return
    for count, total in ((1, 1024), (16, 512)):
        yield paged_case(count, 1, total, 9, 3, 64, where)
    yield paged_case(1, 512, 512, 9, 3, 64, where)
    yield paged_case(4, 256, 256, 16, 2, 128, where)
    yield tower_case(4, 577, 16, 64, where)
    for rows in (1, 16):
        yield from elementwise_cases(rows, 576 // 128 * 128, where)
    for dtype in (torch.float32, torch.bfloat16):
        yield from linear_cases(where, dtype)


def _dtype(where: Clock) -> torch.dtype:
    return torch.bfloat16 if where.device == "cuda" else torch.float32


def measure(case: Case, where: Clock) -> Line:
    """One line; ours and theirs in turn."""
    bound = max(case.bytes / where.copy, case.flops / where.matrix) * 1e6
    ours, theirs = where(case.ours), where(case.theirs)
    return Line(case.name, ours, theirs, bound, case.bytes, case.flops)


def show(line: Line) -> str:
    """A row of the table."""
    rate = (
        f"{line.flops / line.ours_us / 1e6:7.1f} TFLOP/s"
        if line.flops > 1e3 * line.bytes / 8
        else f"{line.bytes / line.ours_us / 1e6:7.3f} TB/s"
    )
    return (
        f"{line.name:<38} {line.ours_us:10.1f} {line.theirs_us:10.1f} "
        f"{line.theirs_us / line.ours_us:7.2f} {line.bound_us:9.1f} "
        f"{100 * line.bound_us / line.ours_us:5.0f}%  {rate}"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--general", action="store_true", help="no kernels for Hopper alone")
    parser.add_argument("--only", default="", help="lines whose name holds this")
    parser.add_argument("--json", type=Path, help="keeps every figure")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if lack := extension.lack(device, dtype):
        raise SystemExit(f"there is nothing to measure: {lack}")
    if options.general and device.type != "cuda":
        parser.error("--general chooses among CUDA's kernels; the device is the CPU")
    if options.general:
        path = extension.FOLDER / extension.LIBRARIES["cuda"]
        ctypes.CDLL(str(path)).sensorium_cuda_general(1)
    with torch.inference_mode():
        where = Clock(device.type, dtype, options.repeats)
        name = torch.cuda.get_device_name() if device.type == "cuda" else extension.load().cpu_level
        print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}", end=": ")
        print(f"copy {where.copy / 1e9:.0f} GB/s, matrix {where.matrix / 1e12:.2f} TFLOP/s")
        print(f"{'':<38} {'ours µs':>10} {'torch µs':>10} {'ratio':>7} {'bound µs':>9}")
        lines = []
        for case in cases(where):
            if options.only in case.name:
                lines.append(measure(case, where))
                print(show(lines[-1]), flush=True)
    if not lines:
        parser.error(f"no line has {options.only!r} in its name")
    if options.json:
        kept = {"device": name, "torch": torch.__version__, "copy": where.copy}
        kept |= {"matrix": where.matrix, "lines": [asdict(line) for line in lines]}
        options.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
