"""Row 5: a local path by URL stays below the root, also where files are exchanged meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_server import fetch

from sensorium.errors import LimitError, MediaError
from sensorium.media.fetch.local import LocalRoot
from sensorium.media.fetch.policy import FetchPolicy


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file in a folder; beside it, a secret of the same name."""
    inner = tmp_path / "root" / "inner"
    inner.mkdir(parents=True)
    (inner / "note").write_bytes(b"hello")
    (tmp_path / "note").write_bytes(b"secret")
    return tmp_path / "root"


def test_nothing_local_unless_a_root_is_set(root: Path) -> None:
    for url in (f"file://{root}/inner/note", f"{root}/inner/note", "/etc/passwd"):
        with pytest.raises(MediaError, match="allowed_local_media_path isn't set"):
            fetch(url)


@pytest.mark.parametrize(
    "path",
    [
        "/../note",
        "/inner/../../note",
        "/%2e%2e/note",
        "/inner/%2e%2e/%2e%2e/note",
        "/..%2fnote",
        "/link/note",
        "/inner/link_to_file",
        "/inner/absolute",
        "//..//note",
        "/./../note",
    ],
)
def test_no_way_out(root: Path, path: str) -> None:
    (root / "link").symlink_to(root.parent)
    (root / "inner" / "link_to_file").symlink_to(root.parent / "note")
    (root / "inner" / "absolute").symlink_to("/etc/hostname")
    with pytest.raises(MediaError, match="isn't within allowed_local_media_path"):
        fetch(f"file://{root}{path}", FetchPolicy(local_path=str(root)))


@pytest.mark.parametrize(
    "url",
    [
        "file://{root}/inner/note%00.png",
        "file://{root}/inner/note%00/../../../note",
        "file://evil.example{root}/inner/note",
        "file://127.0.0.1{root}/inner/note",
        "file:inner/note",
        "file:///{root}/inner",
        "file://{root}/inner/note/..",
        "file://{root}/" + "a" * 5000,
        "file://{root}/" + "a/" * 5000,
        "file://{root}/\ud800",
        "file://[/",
    ],
)
def test_paths_that_name_no_file_get_a_sentence(root: Path, url: str) -> None:
    with pytest.raises(MediaError) as caught:
        fetch(url.replace("{root}", str(root)), FetchPolicy(local_path=str(root)))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin", "/proc/self/environ"])
def test_devices_and_the_like(name: str) -> None:
    with pytest.raises((MediaError, LimitError)):
        fetch(name, FetchPolicy(local_path="/dev"))
    if name.startswith("/dev"):
        with pytest.raises(MediaError, match=r"no regular file|isn't within|can't be opened"):
            fetch(name, FetchPolicy(local_path="/dev"))


def test_the_size_is_bounded(root: Path) -> None:
    with open(root / "huge", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(LimitError, match=f"{2**40} bytes are more than the 1000 allowed"):
        fetch(f"{root}/huge", FetchPolicy(local_path=str(root)), max_bytes=1000)


def between(monkeypatch: pytest.MonkeyPatch, name: str, exchange: Callable[[], None]) -> None:
    """Lets ``exchange`` happen right before the component ``name`` is opened."""
    real_open = os.open
    done: list[str] = []

    def open_after_exchange(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == name and not done:
            done.append(name)
            exchange()
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_after_exchange)


def test_a_file_exchanged_for_a_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange() -> None:
        (root / "inner" / "note").unlink()
        (root / "inner" / "note").symlink_to(root.parent / "note")

    between(monkeypatch, "note", exchange)
    with pytest.raises(MediaError, match="isn't within allowed_local_media_path"):
        LocalRoot(str(root)).open(f"{root}/inner/note", 100)


def test_a_folder_exchanged_for_a_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange() -> None:
        (root / "inner").rename(root / "moved")
        (root / "inner").symlink_to(root.parent)

    between(monkeypatch, "inner", exchange)
    with pytest.raises(MediaError, match="isn't within allowed_local_media_path"):
        LocalRoot(str(root)).open(f"{root}/inner/note", 100)


def test_a_folder_exchanged_behind_the_walk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange() -> None:
        (root / "inner").rename(root / "moved")
        (root / "inner").symlink_to(root.parent)

    between(monkeypatch, "note", exchange)  # "inner" is open already
    file = LocalRoot(str(root)).open(f"{root}/inner/note", 100)
    assert file.read(100).data == b"hello", "the file of the folder that was checked"
