"""Files below a root, whatever paths and links say; and files that a Python caller names."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hostile_server import fetch

from sensorium.errors import ConfigError, LimitError, MediaError
from sensorium.media.fetch import resolve
from sensorium.media.fetch.local import LocalRoot
from sensorium.media.fetch.policy import FetchPolicy
from sensorium.types import BytesSource, ValueSource


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file, a folder with another, and links; beside it, a secret."""
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "note").write_bytes(b"hello")
    (root / "inner" / "deep").write_bytes(b"deep")
    (root / "b%20c").write_bytes(b"escaped")
    (tmp_path / "secret").write_bytes(b"secret")
    links = {
        "to_note": "note",
        "inner/up": "../note",
        "to_inner": "inner",
        "absolute": str(root / "inner" / "deep"),
        "out": "../secret",
        "out_absolute": str(tmp_path / "secret"),
        "out_folder": "..",
        "loop": "loop",
        "dangling": "none",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe")
    return root


def read(root: Path, path: str, max_bytes: int = 100) -> bytes:
    return LocalRoot(str(root)).open(path, max_bytes).read(max_bytes).data


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("note", b"hello"),
        ("./inner//deep", b"deep"),
        ("inner/../note", b"hello"),
        ("to_note", b"hello"),
        ("inner/up", b"hello"),
        ("to_inner/deep", b"deep"),
        ("to_inner/up", b"hello"),
        ("absolute", b"deep"),
        ("out_folder/root/note", b""),
    ],
)
def test_inside(root: Path, path: str, data: bytes) -> None:
    if not data:
        with pytest.raises(MediaError, match="isn't within allowed_local_media_path"):
            read(root, f"{root}/{path}")
    else:
        assert read(root, f"{root}/{path}") == data


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "inner/../../secret",
        "inner/../../root/note",
        "out",
        "out_absolute",
        "out_folder/secret",
        "to_inner/../../secret",
        "..",
        "inner/..",
        "",
    ],
)
def test_outside(root: Path, path: str) -> None:
    with pytest.raises(MediaError, match="isn't within allowed_local_media_path"):
        read(root, f"{root}/{path}")


@pytest.mark.parametrize("path", ["/etc/passwd", "etc/passwd", "", "/", "note", "\0"])
def test_other_paths(root: Path, path: str) -> None:
    with pytest.raises(MediaError, match="isn't within allowed_local_media_path"):
        read(root, path)
    with pytest.raises(MediaError, match="isn't within"):
        read(root, f"{root}-beside/note")


@pytest.mark.parametrize("name", ["none", "loop", "dangling", "note/x", "none/x", "loop/x"])
def test_what_cannot_be_opened(root: Path, name: str) -> None:
    with pytest.raises(MediaError, match=r"^the local file can't be opened\.$"):
        read(root, f"{root}/{name}")


@pytest.mark.parametrize("name", ["pipe", "inner", "to_inner"])
def test_regular_files_only(root: Path, name: str) -> None:
    with pytest.raises(MediaError, match="is no regular file"):
        read(root, f"{root}/{name}")


def test_sizes(root: Path) -> None:
    assert read(root, f"{root}/note", 5) == b"hello"
    with pytest.raises(LimitError, match="5 bytes are more than the 4 allowed"):
        read(root, f"{root}/note", 4)
    file = LocalRoot(str(root)).open(f"{root}/note", 5)
    with open(root / "note", "ab") as more:
        more.write(b"!")
    with pytest.raises(LimitError, match="6 bytes are more than the 5 allowed"):
        file.read(5)


def test_a_root_behind_a_link(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    assert read(link, f"{link}/note") == b"hello"
    assert read(link, f"{root}/note") == b"hello"


def test_no_descriptor_stays_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("note", "out", "loop", "pipe", "inner/up", "absolute", "none", "inner"):
        with suppress(MediaError):
            read(root, f"{root}/{name}")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", ["relative", "/no/such/folder", "/etc/passwd"])
def test_what_is_no_root(path: str) -> None:
    with pytest.raises(ConfigError, match="must be the absolute path of a folder"):
        LocalRoot(path)


def test_urls_of_files(root: Path) -> None:
    policy = FetchPolicy(local_path=str(root))
    for url in (f"file://{root}/note", f"FILE://localhost{root}/n%6Fte", f"{root}/note"):
        assert fetch(url, policy) == BytesSource(b"hello")
    assert fetch(f"{root}/b%20c", policy).data == b"escaped", "a path isn't decoded"
    with pytest.raises(MediaError, match="names no file of this machine"):
        fetch(f"file://elsewhere{root}/note", policy)
    with pytest.raises(MediaError, match="isn't within"):
        fetch(f"file://{root}/inner/%2e%2e/%2e%2e/secret", policy)
    with pytest.raises(MediaError, match="allowed_local_media_path isn't set") as caught:
        fetch(f"file://{root}/note")
    assert str(root) not in str(caught.value)


def test_a_path_is_read_once_and_only_if_it_is_a_regular_file(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    file.write_bytes(b"hello")
    assert resolve(ValueSource(file), max_bytes=5) == BytesSource(b"hello")
    with pytest.raises(LimitError, match="5 bytes"):
        resolve(ValueSource(file), max_bytes=4)
    with pytest.raises(MediaError, match="can't be opened"):
        resolve(ValueSource(tmp_path / "none"), max_bytes=5)
    with pytest.raises(MediaError, match="no regular file"):
        resolve(ValueSource(tmp_path), max_bytes=5)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(MediaError, match="no regular file"):
        resolve(ValueSource(pipe), max_bytes=5)
    with pytest.raises(MediaError, match="no regular file"):
        resolve(ValueSource(Path("/dev/zero")), max_bytes=5)


def test_values_and_bytes_pass() -> None:
    value, data = ValueSource([1, 2]), BytesSource(b"x" * 10)
    assert resolve(value, max_bytes=1) is value
    assert resolve(data, max_bytes=1) is data
