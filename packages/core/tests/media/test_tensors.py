"""Tensors from bytes: three formats against their own libraries' writers, and damaged ones."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sensorium.errors import LimitError, MediaError
from sensorium.media.tensors import decode_tensor, decode_tensor_base64

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]
DTYPES = [*FLOATS, *INTEGERS, *UNSIGNED, torch.bool]


def as_safetensors(tensor: Tensor) -> bytes:
    return safetensors.torch.save({"rows": tensor})


def as_archive(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def as_npy(tensor: Tensor) -> bytes:
    return npy(tensor.numpy())


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


WRITERS = {"safetensors": as_safetensors, "archive": as_archive, "npy": as_npy}


def sample(dtype: torch.dtype, shape: tuple[int, ...] = (3, 4)) -> Tensor:
    values = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(1))
    return values.to(dtype)


def decode(data: bytes, max_bytes: int = 2**20) -> Tensor:
    return decode_tensor(data, max_bytes=max_bytes)


def assert_same(left: Tensor, right: Tensor) -> None:
    assert (left.dtype, left.shape) == (right.dtype, right.shape)
    assert left.is_contiguous()
    assert left.layout == torch.strided
    assert left.device.type == "cpu"
    assert torch.equal(left, right)


def safetensors_file(header: Any, numbers: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def rezip(data: bytes, change: Callable[[str, bytes], tuple[str, bytes]]) -> bytes:
    """An archive with its entries changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return buffer.getvalue()


# --- what is read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writer", "dtype"),
    [(w, d) for w in WRITERS for d in DTYPES if (w, d) != ("npy", torch.bfloat16)],
)
def test_every_dtype_comes_back_as_it_was(writer: str, dtype: torch.dtype) -> None:
    tensor = sample(dtype)
    assert_same(decode(WRITERS[writer](tensor)), tensor)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 1, 3), (2, 1, 2, 1, 2, 1, 1, 1)])
@pytest.mark.parametrize("writer", WRITERS)
def test_shapes(writer: str, shape: tuple[int, ...]) -> None:
    tensor = sample(torch.float32, shape)
    assert_same(decode(WRITERS[writer](tensor)), tensor)


@pytest.mark.parametrize("writer", WRITERS)
def test_nan_and_infinity_are_the_callers_to_judge(writer: str) -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -0.0])
    decoded = decode(WRITERS[writer](tensor))
    assert torch.equal(decoded.view(torch.int32), tensor.view(torch.int32))


@pytest.mark.parametrize("writer", WRITERS)
def test_the_tensor_has_memory_of_its_own(writer: str) -> None:
    data = WRITERS[writer](sample(torch.int32))
    decode(data).fill_(9)
    assert_same(decode(data), sample(torch.int32))


def test_views_parameters_and_odd_strides_of_torch() -> None:
    base = sample(torch.float32, (6, 8))
    views = [base[2:5], base[:, 3], base.T, base[::2, ::3], base[1, 2], base[:, 2:3]]
    views += [base.as_strided((1, 4), (1 << 40, 1)), base.as_strided((4, 1), (1, 7))]
    for view in views:
        decoded = decode(as_archive(view))
        assert_same(decoded, view.contiguous())
        assert decoded.dim() == 0 or decoded.stride(-1) == 1
    assert_same(decode(as_archive(torch.nn.Parameter(base))), base)
    assert_same(decode(as_archive(base.clone().requires_grad_())), base)


def test_npy_orders_byte_orders_and_versions() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = torch.from_numpy(array)
    assert_same(decode(npy(np.asfortranarray(array))), expected)
    assert_same(decode(npy(array.astype(">f4"))), expected)
    for version in ((2, 0), (3, 0)):
        assert_same(decode(npy(array, version)), expected)


def test_older_archives_without_a_byte_order() -> None:
    tensor = sample(torch.float16)
    kept = ("data.pkl", "data/0", "version")
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(as_archive(tensor))) as old,
        zipfile.ZipFile(buffer, "w") as new,
    ):
        for name in old.namelist():
            if name.partition("/")[2] in kept:
                new.writestr(name, old.read(name))
    assert_same(decode(buffer.getvalue()), tensor)


@pytest.mark.parametrize("writer", WRITERS)
def test_base64_whole_and_in_lines(writer: str) -> None:
    tensor = sample(torch.float32, (50, 3))
    data = WRITERS[writer](tensor)
    texts = [base64.b64encode(data), base64.encodebytes(data)]
    texts.append(texts[1].replace(b"\n", b"\r\n"))
    for text in texts:
        assert_same(decode_tensor_base64(text.decode(), max_bytes=len(data)), tensor)


# --- limits ----------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS)
def test_a_byte_too_many(writer: str) -> None:
    data = WRITERS[writer](sample(torch.float32))
    assert decode(data, max_bytes=len(data)).shape == (3, 4)
    sentence = f"takes {len(data)} bytes; at most {len(data) - 1} are"
    with pytest.raises(LimitError, match=sentence):
        decode(data, max_bytes=len(data) - 1)
    with pytest.raises(LimitError, match=f"{len(data) - 1} allowed"):
        decode_tensor_base64(base64.b64encode(data).decode(), max_bytes=len(data) - 1)


def test_long_base64_is_refused_unread() -> None:
    with pytest.raises(LimitError, match="longer than 100 bytes can be"):
        decode_tensor_base64("@" * 5000, max_bytes=100)


@pytest.mark.parametrize("text", ["@@@@", "A", "AA=A", "AAA A A", "ÄÖÜß", "AAAA=", "A\x0bAA"])
def test_no_base64(text: str) -> None:
    with pytest.raises(MediaError, match="isn't base64"):
        decode_tensor_base64(text, max_bytes=100)


# --- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"{", b"no tensor", b"\x80\x02.", b"PK\x05\x06" + bytes(18)])
def test_other_bytes(data: bytes) -> None:
    with pytest.raises(MediaError, match=r"no tensor in an allowed format \(safetensors, torch"):
        decode(data)


def test_torchs_old_format() -> None:
    buffer = io.BytesIO()
    torch.save(sample(torch.float32), buffer, _use_new_zipfile_serialization=False)
    with pytest.raises(MediaError, match="torch's old format; save it again"):
        decode(buffer.getvalue())


@pytest.mark.parametrize("count", [0, 2])
def test_safetensors_of_other_than_one_tensor(count: int) -> None:
    data = safetensors.torch.save({str(i): torch.ones(2) for i in range(count)})
    with pytest.raises(MediaError, match=f"holds {count} tensors; it must hold one"):
        decode(data)


OTHER_VALUES: dict[str, Callable[[], Any]] = {
    "dict": lambda: {"rows": torch.ones(2)},
    "list": lambda: [torch.ones(2), torch.ones(2)],
    "number": lambda: 5,
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
    "meta": lambda: torch.ones(2, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "eight bits": lambda: torch.ones(2).to(torch.float8_e4m3fn),
    "negative": lambda: torch.tensor([1 + 2j]).conj().imag,
    "buffer": lambda: torch.nn.Buffer(torch.ones(2)),
    "storage": lambda: torch.ones(2).untyped_storage(),
    "module": lambda: torch.nn.Linear(2, 2),
    "nine dimensions": lambda: torch.ones((1,) * 9),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, of tensors it may drop
@pytest.mark.parametrize("name", OTHER_VALUES)
def test_archives_of_other_things(name: str) -> None:
    with pytest.raises(MediaError, match="something else than one plain tensor"):
        decode(as_archive(OTHER_VALUES[name]()))


def test_dtypes_that_are_not_allowed() -> None:
    for dtype in (torch.float8_e4m3fn, torch.complex64):
        with pytest.raises(MediaError, match=f"dtype is {str(dtype)[6:]}; allowed are"):
            decode(as_safetensors(torch.ones(2).to(dtype)))
    for array in (np.ones(2, np.complex64), np.ones(2, "M8[s]"), np.array(["a"]), np.array([b"a"])):
        with pytest.raises(MediaError, match="something else than floating-point"):
            decode(npy(array))
    with pytest.raises(MediaError, match="something else than floating-point"):
        decode(npy(np.ones(2, dtype=[("a", "f4"), ("b", "i4")])))
    with pytest.raises(MediaError, match="damaged or cut off, or of a dtype"):
        decode(safetensors_file({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 1]}}, b"1"))


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0, 2)])
@pytest.mark.parametrize("writer", WRITERS)
def test_empty_tensors(writer: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match=r"empty|no numbers"):
        decode(WRITERS[writer](torch.ones(shape)))


@pytest.mark.parametrize("writer", WRITERS)
def test_bool_of_other_bytes(writer: str) -> None:
    data = WRITERS[writer](torch.tensor([True, True, True]))
    if writer == "archive":
        data = rezip(data, lambda n, c: (n, b"\1\2\1" if n.endswith("data/0") else c))
    else:
        data = data[:-3] + b"\1\2\1"
    with pytest.raises(MediaError, match="bool and it holds other values than 0 and 1"):
        decode(data)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("archive/data.pkl", lambda c: c + bytes(5000), "something else"),
        ("archive/data.pkl", lambda c: c[:-5], "damaged"),
        ("archive/byteorder", lambda c: b"big", "another byte order"),
        ("archive/byteorder", lambda c: b"\xff", "another byte order"),
        ("archive/data/0", lambda c: c[:-4], "other numbers than it holds"),
        ("archive/data/0", lambda c: c + c, "other numbers than it holds"),
    ],
)
def test_changed_archives(name: str, change: Callable[[bytes], bytes], sentence: str) -> None:
    data = as_archive(sample(torch.float32))
    with pytest.raises(MediaError, match=sentence):
        decode(rezip(data, lambda n, c: (n, change(c) if n == name else c)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda name: name.replace("data.pkl", "data.txt"), "none that torch.save writes"),
        (lambda name: name.replace("archive/version", "other/version"), "none that torch.save"),
        (lambda name: name.replace("data/0", "data/1"), "other numbers than it holds"),
        (lambda name: name.replace("archive/", ""), "none that torch.save writes"),
    ],
)
def test_renamed_entries(change: Callable[[str], str], sentence: str) -> None:
    data = rezip(as_archive(sample(torch.float32)), lambda n, c: (change(n), c))
    with pytest.raises(MediaError, match=sentence):
        decode(data)


def test_two_entries_of_one_name() -> None:
    buffer = io.BytesIO(as_archive(sample(torch.float32)))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", bytes(48))
    with pytest.raises(MediaError, match="two entries of one name"):
        decode(buffer.getvalue())


def test_a_stored_entry_that_claims_to_be_deflated() -> None:
    data = bytearray(as_archive(sample(torch.float32)))
    struct.pack_into("<H", data, data.index(b"PK\1\2") + 10, zipfile.ZIP_DEFLATED)
    with pytest.raises(MediaError, match="compressed; only stored entries are allowed"):
        decode(bytes(data))


def test_a_tensor_that_begins_behind_its_storage() -> None:
    data = as_archive(sample(torch.float32)[1:])  # it begins at number 4 of 12

    def change(name: str, content: bytes) -> tuple[str, bytes]:
        return name, content.replace(b"QK\4", b"QK\5")  # the offset follows the storage, Q

    assert decode(rezip(data, lambda name, content: (name, content))).shape == (2, 4)
    with pytest.raises(MediaError, match="larger than the 48 bytes it holds"):
        decode(rezip(data, change))


HEADERS = [
    b"",
    b"{",
    b"()",
    b"{'descr': '<f4', 'fortran_order': False}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
    b"{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': 2}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2)}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,)}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2" + b",1" * 8 + b")}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 900 + b")" * 900 + b"}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"-" * 3000 + b"2}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}" + b" " * 5000,
    b"{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (2,)}",
    b"\xff",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_npy_headers(header: bytes) -> None:
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(8)
    with pytest.raises(MediaError, match=r"npy file's header is damaged, cut off or too long"):
        decode(data)


def test_a_plain_npy_header_is_taken() -> None:
    """The frame of ``test_npy_headers`` with a header that is right."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(8)
    assert_same(decode(data), torch.zeros(2))


# --- anything at all -------------------------------------------------------------------


def verdict(data: bytes) -> str:
    """What came of it; every other exception fails the test."""
    try:
        tensor = decode(data)
    except (MediaError, LimitError) as error:
        sentence = str(error)
        assert sentence.endswith(".")
        assert len(sentence) < 200
        assert " 0x" not in sentence
        return "refused"
    assert 0 < tensor.numel() * tensor.itemsize <= len(data)
    assert tensor.is_contiguous()
    return "read"


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Changes, drops, doubles or inserts some bytes, more often near the ends."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(len(changed))
        match rng.randrange(6):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            case 2:
                changed[at : at + rng.randrange(1, 9)] = b""
            case 3:
                changed[at:at] = changed[at : at + rng.randrange(1, 65)]
            case 4:
                number = rng.choice([2**31, 2**32 - 1, 2**63, 2**64 - 1, len(data)])
                changed[at : at + 8] = struct.pack("<Q", number)
            case 5:
                del changed[max(1, at) :]
        if not changed:
            return b""
    return bytes(changed)


@pytest.mark.parametrize("writer", WRITERS)
def test_mutations_are_read_or_refused(writer: str) -> None:
    rng = random.Random(writer)
    valid = [WRITERS[writer](sample(dtype, (3, 5))) for dtype in (torch.float16, torch.int64)]
    verdicts = [verdict(mutate(rng.choice(valid), rng)) for _ in range(2500)]
    assert verdicts.count("read") > 10, "some mutations change only numbers"
    assert verdicts.count("refused") > 1000


def test_mutated_pickles_in_sound_archives() -> None:
    rng = random.Random(1)
    verdicts = []
    for _ in range(1000):
        base = as_archive(sample(rng.choice(DTYPES), (3, 5))[1:, ::2])
        data = rezip(base, lambda n, c: (n, mutate(c, rng) if n.endswith("data.pkl") else c))
        verdicts.append(verdict(data))
    assert verdicts.count("read") > 10
    assert verdicts.count("refused") > 500


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([b"PK\x03\x04", b"\x93NUMPY\1\0\x20\0", b"\x10" + bytes(7) + b"{", b""]),
    st.binary(max_size=200),
)
def test_noise_behind_a_right_beginning(start: bytes, noise: bytes) -> None:
    assert verdict(start + noise) == "refused"
