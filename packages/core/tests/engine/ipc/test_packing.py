"""Features in one buffer: every bit comes back, and no header is believed."""

from __future__ import annotations

import json
import mmap
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sensorium.engine.ipc.packing import (
    ALIGNMENT,
    MAX_HEADER_BYTES,
    PackedHeader,
    TensorLayout,
    layout,
    pack,
    unpack,
    write,
)
from sensorium.errors import EngineError

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SMALL_FLOATS = [torch.float8_e4m3fn, torch.float8_e5m2fnuz]
COMPLEX = [torch.complex32, torch.complex64, torch.complex128]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8]
UNSIGNED = [torch.uint64, torch.uint32, torch.uint16, torch.uint8]
DTYPES = [*FLOATS, *SMALL_FLOATS, *COMPLEX, *INTEGERS, *UNSIGNED, torch.bool]

Nested = Mapping[str, Mapping[str, Tensor]]


def bits(tensor: Tensor) -> Any:
    """A tensor's numbers as integers of the same bits, nested as its shape is."""
    if tensor.itemsize == 16:
        tensor = torch.view_as_real(tensor)
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(integers[tensor.itemsize]).tolist()


def assert_same(left: Nested, right: Nested) -> None:
    assert list(left) == list(right)
    for encoder, tensors in left.items():
        assert list(tensors) == list(right[encoder])
        for name, tensor in tensors.items():
            other = right[encoder][name]
            assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
            assert bits(tensor) == bits(other)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype, shape and strides, any bits (so that every NaN turns up)."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    count = torch.Size(shape).numel()
    seed = draw(st.integers(0, 2**32))
    high = 2 if dtype == torch.bool else 256
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(
        0, high, (count * dtype.itemsize,), generator=generator, dtype=torch.uint8
    )
    tensor = noise.view(dtype).view(shape)
    if shape:
        tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
        tensor = tensor[draw(st.sampled_from([slice(None), slice(1, None), slice(None, None, 2)]))]
        if draw(st.booleans()):
            tensor = tensor[..., None].expand(*tensor.shape, draw(st.integers(0, 3)))
    return tensor


names = st.text(st.characters(), max_size=8)
features = st.dictionaries(names, st.dictionaries(names, tensors(), max_size=4), max_size=3)


@pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")
@settings(deadline=None, max_examples=300)
@given(features)
def test_everything_comes_back(given_features: Nested) -> None:
    packed = pack(given_features)
    header = PackedHeader.from_bytes(packed.header.to_bytes())
    assert header == packed.header
    unpacked = unpack(header, packed.buffer)
    assert_same(unpacked, given_features)
    for by_name in unpacked.values():
        for tensor in by_name.values():
            assert tensor.is_contiguous()
            assert not tensor.numel() or tensor.data_ptr() % ALIGNMENT == 0


def test_views_share_the_buffer() -> None:
    packed = pack({"tower": {"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.int64)}})
    view = unpack(packed.header, packed.buffer)["tower"]["b"]
    view[1] = -1
    assert packed.buffer[64 + 8 : 64 + 16].tolist() == [255] * 8


def test_where_tensors_lie() -> None:
    ones = torch.ones(5, dtype=torch.uint8)
    empty = torch.zeros(0, 3)
    packed = pack(
        {"x": {"a": ones, "b": ones}, "none": {}, "y": {"a": torch.tensor(1), "e": empty}}
    )
    assert packed.header == PackedHeader(
        192,
        (
            ("x", (TensorLayout("a", "uint8", (5,), 0), TensorLayout("b", "uint8", (5,), 64))),
            ("none", ()),
            ("y", (TensorLayout("a", "int64", (), 128), TensorLayout("e", "float32", (0, 3), 192))),
        ),
    )
    assert packed.buffer.numel() == 192


def test_what_lies_between_is_zero() -> None:
    given_features = {"x": {str(n): torch.full((n,), 7, dtype=torch.uint8) for n in (0, 1, 63, 9)}}
    header = layout(given_features)
    buffer = torch.full((header.num_bytes,), 255, dtype=torch.uint8)
    write(given_features, header, buffer)
    assert set(buffer.tolist()) == {0, 7}
    assert buffer.sum() == 7 * (1 + 63 + 9)


def test_memory_that_another_process_maps() -> None:
    given_features = {"tower": {"patches": torch.arange(300, dtype=torch.int16).view(20, 15).T}}
    header = layout(given_features)
    with mmap.mmap(-1, header.num_bytes) as memory:
        buffer = torch.frombuffer(memory, dtype=torch.uint8)
        write(given_features, header, buffer)
        unpacked = unpack(PackedHeader.from_bytes(header.to_bytes()), buffer)
        assert_same(unpacked, given_features)
        assert memory[:6] == bytes([0, 0, 15, 0, 30, 0])
        del buffer, unpacked


def test_nan_payloads_and_odd_bools() -> None:
    signalling = torch.tensor([0x7FA00001, -4194305 + 1], dtype=torch.int32).view(torch.float32)
    small = torch.tensor([0x7FA1, 0x7F81], dtype=torch.int16).view(torch.bfloat16)
    odd = torch.tensor([0, 1, 2, 255], dtype=torch.uint8).view(torch.bool)
    given_features = {
        "x": {"f": signalling, "s": small, "o": odd, "t": odd.view(2, 2).T, "e": odd[1].expand(3)}
    }
    packed = pack(given_features)
    assert_same(unpack(packed.header, packed.buffer), given_features)


def test_conjugates_negatives_gradients() -> None:
    value = torch.tensor([1 + 2j, -3 - 4j])
    wanted = torch.ones(2, requires_grad=True)
    given_features = {"x": {"c": value.conj(), "n": value.conj().imag, "g": wanted}}
    packed = pack(given_features)
    unpacked = unpack(packed.header, packed.buffer)["x"]
    assert unpacked["c"].tolist() == [1 - 2j, -3 + 4j]
    assert unpacked["n"].tolist() == [-2.0, 4.0]
    assert not unpacked["g"].requires_grad


def test_many_dimensions() -> None:
    most = {"x": {"a": torch.zeros((1,) * 62 + (2, 3)).transpose(-1, -2)}}
    packed = pack(most)
    assert_same(unpack(packed.header, packed.buffer), most)
    with pytest.raises(EngineError, match="x/a have a shape that is too large"):
        pack({"x": {"a": torch.zeros((1,) * 65)}})
    with pytest.raises(EngineError, match="x/a have a shape that is too large"):
        pack({"x": {"a": torch.zeros(0, 1, 1).expand(0, 2**40, 2**40)}})


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of tensors it may drop
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: torch.eye(2).to_sparse(), "e/t must be a dense tensor on the CPU"),
        (lambda: torch.eye(2).to_sparse_csr(), "e/t must be a dense tensor on the CPU"),
        (lambda: torch.ones(2, device="meta"), "e/t must be a dense tensor on the CPU"),
        (lambda: torch.nested.nested_tensor([torch.ones(2)]), "e/t must be a dense tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "are quint8"),
        (lambda: [1, 2], "e/t are a list; only tensors are allowed"),
    ],
)
def test_what_cannot_be_packed(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        pack({"e": {"t": make()}})


# --- headers that lie ------------------------------------------------------------------

GOOD = pack({"x": {"a": torch.arange(4.0), "b": torch.zeros(2, 3)}, "y": {"a": torch.ones(1)}})
LIES: dict[str, tuple[Callable[[TensorLayout], TensorLayout], str]] = {
    "overlap": (lambda t: replace(t, offset=0), "x/b overlap the tensor before"),
    "unaligned": (lambda t: replace(t, offset=65), "x/b don't begin at a multiple of 64"),
    "negative": (lambda t: replace(t, offset=-64), "x/b don't begin at a multiple"),
    "behind the end": (lambda t: replace(t, offset=192), "x/b end at byte 216 of a buffer of 132"),
    "far behind": (lambda t: replace(t, offset=2**62), "x/b end at byte 4611686018427387928"),
    "offset overflows": (lambda t: replace(t, offset=2**64), "x/b don't begin at a multiple"),
    "too long": (lambda t: replace(t, shape=(2, 300)), "x/b end at byte 2464 of"),
    "into the next": (lambda t: replace(t, shape=(17,)), "y/a overlap the tensor before"),
    "size overflows": (lambda t: replace(t, shape=(2**32, 2**32)), "a shape that is too large"),
    "wraps to 24 bytes": (lambda t: replace(t, shape=(2**62 + 6,)), "a shape that is too large"),
    "empty and huge": (lambda t: replace(t, shape=(0, 2**62)), "a shape that is too large"),
    "number overflows": (lambda t: replace(t, shape=(2**63,)), "shape that isn't made of counts"),
    "negative shape": (lambda t: replace(t, shape=(-2, -3)), "shape that isn't made of counts"),
    "truth as a number": (lambda t: replace(t, shape=(True, 3)), "shape that isn't made of counts"),
    "fraction": (lambda t: replace(t, shape=(2.0, 3)), "shape that isn't made of counts"),
    "list": (lambda t: replace(t, shape=[2, 3]), "shape that isn't made of counts"),
    "dtype": (lambda t: replace(t, dtype="float33"), "x/b are of no known dtype"),
    "quantised": (lambda t: replace(t, dtype="qint8"), "x/b are of no known dtype"),
    "no dtype": (lambda t: replace(t, dtype=torch.float32), "x/b are of no known dtype"),
    "wider dtype": (lambda t: replace(t, dtype="complex128"), "x/b end at byte 160"),
    "name twice": (lambda t: replace(t, name="a"), "names tensors of x twice"),
    "no name": (lambda t: replace(t, name=5), "names tensors of x twice, or not by a text"),
}


def lie(change: Callable[[TensorLayout], TensorLayout]) -> PackedHeader:
    """``GOOD``'s header with its second tensor changed."""
    (x, (first, second)), y = GOOD.header.encoders
    return PackedHeader(GOOD.header.num_bytes, ((x, (first, change(second))), y))


def spelled(header: PackedHeader) -> bytes | None:
    """The header as bytes, where it can be written."""
    try:
        return header.to_bytes()
    except TypeError:
        return None


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies(name: str) -> None:
    change, sentence = LIES[name]
    header = lie(change)
    with pytest.raises(EngineError, match=sentence):
        unpack(header, GOOD.buffer)
    data = spelled(header)
    if data is not None and name != "list":  # in text a tuple is a list
        with pytest.raises(EngineError, match=sentence):
            PackedHeader.from_bytes(data)


def test_the_frame_of_the_lies_is_sound() -> None:
    assert lie(lambda t: t) == GOOD.header
    assert_same(unpack(lie(lambda t: t), GOOD.buffer), unpack(GOOD.header, GOOD.buffer))


def test_an_encoder_named_twice() -> None:
    header = replace(GOOD.header, encoders=(("x", ()), ("x", ())))
    with pytest.raises(EngineError, match="names encoders twice"):
        unpack(header, GOOD.buffer)


@pytest.mark.parametrize("num_bytes", [131, 133, 0, -1, 2**64, 132.0, None])
def test_a_length_that_lies(num_bytes: Any) -> None:
    with pytest.raises(EngineError, match=r"of a buffer of|its tensors end|how many bytes"):
        unpack(replace(GOOD.header, num_bytes=num_bytes), GOOD.buffer)


def test_buffers_that_do_not_fit() -> None:
    buffer = torch.zeros(300, dtype=torch.uint8)
    for wrong in (GOOD.buffer[:-1], buffer, torch.zeros(264, dtype=torch.uint8)[::2]):
        with pytest.raises(EngineError, match="one of 132 bytes, and the buffer holds"):
            unpack(GOOD.header, wrong)
    for wrong in (GOOD.buffer.view(torch.int8), GOOD.buffer[None], GOOD.buffer.to("meta")):
        with pytest.raises(EngineError, match="must be a flat uint8 tensor on the CPU"):
            unpack(GOOD.header, wrong)
    for start in (1, 8, 63):
        with pytest.raises(EngineError, match="must begin at a multiple of 64 bytes"):
            unpack(GOOD.header, buffer[start : start + 132])
    assert unpack(GOOD.header, buffer[64 : 64 + 132])["y"]["a"].tolist() == [0.0]


# --- headers as bytes ------------------------------------------------------------------

TEXT = GOOD.header.to_bytes()


def test_how_a_header_is_spelled() -> None:
    assert json.loads(TEXT) == [
        "features 1",
        132,
        [
            ["x", [["a", "float32", [4], 0], ["b", "float32", [2, 3], 64]]],
            ["y", [["a", "float32", [1], 128]]],
        ],
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"7",
        b"null",
        b"[" * 100_000,
        b'["features 1",0,{}]',
        b'["features 1",0,[]] ',
        b'["features 2",0,[]]',
        b'["features 1",0.0,[]]',
        b'["features 1",0,[],[]]',
        b'["features 1",NaN,[]]',
        b'["features 1",' + b"9" * 5000 + b",[]]",
        TEXT.replace(b",", b", "),
        TEXT.replace(b"132", b"132.0"),
        TEXT.replace(b"[4]", b'{"4":1}'),
        TEXT.replace(b'"x"', b'"\\u0078"'),
        TEXT.replace(b'"x"', b'"\xff"'),
        TEXT.replace(b"float32", b"float16"),
        TEXT.decode().encode("utf-16"),
        TEXT + TEXT,
        TEXT[:-1],
    ],
    ids=lambda data: data[:20],
)
def test_other_spellings(data: bytes) -> None:
    with pytest.raises(EngineError, match="the features"):
        unpack(PackedHeader.from_bytes(data), GOOD.buffer)


def test_the_shortest_header() -> None:
    assert PackedHeader.from_bytes(b'["features 1",0,[]]') == PackedHeader(0, ())


def test_headers_too_long() -> None:
    long = PackedHeader(0, (("x" * MAX_HEADER_BYTES, ()),))
    with pytest.raises(EngineError, match=f"at most {MAX_HEADER_BYTES} are"):
        long.to_bytes()
    with pytest.raises(EngineError, match=f"takes {MAX_HEADER_BYTES + 1} bytes"):
        PackedHeader.from_bytes(b" " * (MAX_HEADER_BYTES + 1))


def mutate(text: bytes, rng: random.Random) -> bytes:
    changed = bytearray(text)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(changed))
        match rng.randrange(3):
            case 0:
                changed[at] = rng.choice(b'0123456789-.,"[]{} xab\xff')
            case 1:
                del changed[at]
            case 2:
                changed.insert(at, rng.choice(b"0123456789"))
    return bytes(changed)


def test_mutated_headers_fit_or_are_refused() -> None:
    rng = random.Random(1)
    end = GOOD.buffer.data_ptr() + GOOD.buffer.numel()
    refusals = []
    for _ in range(5000):
        try:
            unpacked = unpack(PackedHeader.from_bytes(mutate(TEXT, rng)), GOOD.buffer)
        except EngineError as error:
            refusals.append(str(error))
            continue
        for by_name in unpacked.values():
            for tensor in by_name.values():
                assert tensor.data_ptr() + tensor.numel() * tensor.itemsize <= end
    assert 3000 < len(refusals) < 4990, "some mutations only rename or reshape"
    assert all(sentence.endswith(".") for sentence in refusals)
