"""Row 9 (CVE-2025-62164 family): embeddings that a caller sends run no code of the caller's."""

from __future__ import annotations

import base64
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sensorium.errors import MediaError
from sensorium.media.tensors import decode_tensor, decode_tensor_base64


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.file,)


def with_pickle(program: bytes) -> bytes:
    """A sound ``torch.save`` archive of another pickle."""
    saved, changed = io.BytesIO(), io.BytesIO()
    torch.save(torch.ones(4), saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("/data.pkl") else old.read(name))
    return changed.getvalue()


def archive(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def legacy(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([value], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def load_torch(data: bytes) -> object:
    return torch.load(io.BytesIO(data), weights_only=False)


def load_npy(data: bytes) -> object:
    return np.load(io.BytesIO(data), allow_pickle=True)


#: Who writes the file, who would run what is in it, and what is said instead.
FORMS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], object], str]] = {
    "archive": (archive, load_torch, "something else than one plain tensor"),
    "archive, protocol 0": (
        lambda value: with_pickle(pickle.dumps(value, protocol=0)),
        load_torch,
        "something else than one plain tensor",
    ),
    "archive, protocol 4": (
        lambda value: with_pickle(pickle.dumps(value, protocol=4)),
        load_torch,
        "something else than one plain tensor",
    ),
    "beside a tensor": (
        lambda value: archive((torch.ones(2), value)),
        load_torch,
        "something else than one plain tensor",
    ),
    "legacy": (legacy, load_torch, "torch's old format"),
    "npy": (npy, load_npy, "something else than floating-point numbers"),
    "pickle": (pickle.dumps, pickle.loads, "no tensor in an allowed format"),
}


@pytest.mark.parametrize("form", FORMS)
def test_row_09_the_payload_is_refused_and_did_not_run(form: str, tmp_path: Path) -> None:
    save, load, sentence = FORMS[form]
    trace = tmp_path / "it ran"
    data = save(Payload(trace))
    load(data)
    assert trace.exists(), "the payload must work where it is let"
    trace.unlink()
    with pytest.raises(MediaError, match=sentence):
        decode_tensor(data, max_bytes=2**20)
    with pytest.raises(MediaError, match=sentence):
        decode_tensor_base64(base64.b64encode(data).decode(), max_bytes=2**20)
    assert not trace.exists()


#: Pickles that try to reach something through what may be named.
PROGRAMS = {
    "import by name": b"\x80\x02cos\nsystem\nX\4\0\0\0true\x85R.",
    "an attribute of an allowed name": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    "torch's own loader": b"\x80\x02ctorch\nload\nX\4\0\0\0file\x85R.",
    "a storage of an unknown class": (
        b"\x80\x02(X\7\0\0\0storagecos\nsystem\nX\1\0\0\x000X\3\0\0\0cpuK\4tQ."
    ),
    "a dtype that is called": b"\x80\x02ctorch\nFloatStorage\nK\1\x85R.",
    "an object without its class": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "a state": b"\x80\x02ccollections\nOrderedDict\n)RX\1\0\0\0aX\1\0\0\0b\x86b.",
    "a dictionary alone": b"\x80\x02ccollections\nOrderedDict\n)R.",
    "a registered extension": b"\x80\x02\x82\1.",
    "no program": b"",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_row_09_pickles_by_hand(name: str) -> None:
    with pytest.raises(MediaError, match=r"something else than one plain tensor|damaged"):
        decode_tensor(with_pickle(PROGRAMS[name]), max_bytes=2**20)


def test_row_09_the_archive_around_them_is_sound() -> None:
    with zipfile.ZipFile(io.BytesIO(archive(torch.ones(4)))) as saved:
        program = saved.read("archive/data.pkl")
    decoded = decode_tensor(with_pickle(program), max_bytes=2**20)
    assert torch.equal(decoded, torch.ones(4))
