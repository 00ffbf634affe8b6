"""Local files: those that a Python caller names by a ``Path``, and those below an allowed root.

A path in a URL is untrusted. It is walked from the root's descriptor, one component at a time and
without following links (links are read, and their targets walked the same way), so that files or
links that are exchanged meanwhile can't lead out: the file that was checked is the one that is
opened. Regular files only.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sensorium.errors import ConfigError, LimitError, MediaError
from sensorium.types import BytesSource

MAX_LINKS = 40
# Without O_NONBLOCK opening a pipe would wait for its other end.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW


def read_file(path: Path, max_bytes: int) -> BytesSource:
    """A regular file's bytes; links are followed, as the caller could.

    Raises:
        MediaError: it can't be opened or read, or is no regular file.
        LimitError: more than ``max_bytes``.
    """
    name = f"the file {str(path)!r}"
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError):
        raise MediaError(f"{name} can't be opened.") from None
    return OpenFile.of(descriptor, name, max_bytes).read(max_bytes)


def file_bytes(path: Path) -> int:
    """The file's size now; 0 where it can't be told (reading it will say why)."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file that is open; closed when it has been read or is dropped.

    Attributes:
        name: its name in messages.
        num_bytes: its size when it was opened.
    """

    file: io.FileIO
    name: str
    num_bytes: int

    @classmethod
    def of(cls, descriptor: int, name: str, max_bytes: int) -> OpenFile:
        """Takes ownership of the descriptor.

        Raises:
            MediaError: it is no regular file.
            LimitError: more than ``max_bytes``.
        """
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise MediaError(f"{name} is no regular file.")
            _check_size(status.st_size, max_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(io.FileIO(descriptor, "rb"), name, status.st_size)

    def read(self, max_bytes: int) -> BytesSource:
        """The file's bytes; it is closed in every case.

        Raises:
            MediaError: reading fails.
            LimitError: it has grown beyond ``max_bytes``.
        """
        try:
            with self.file as raw, io.BufferedReader(raw) as file:
                data = file.read(max_bytes + 1)
        except OSError:
            raise MediaError(f"{self.name} can't be read.") from None
        _check_size(len(data), max_bytes)
        return BytesSource(data)


class LocalRoot:
    """The folder that ``allowed_local_media_path`` names.

    Raises:
        ConfigError: it is no folder, or no absolute path.
    """

    def __init__(self, path: str) -> None:
        if not os.path.isabs(path) or not os.path.isdir(path):
            raise ConfigError(
                f"allowed_local_media_path is {path!r}; it must be the absolute path of a folder."
            )
        self._folder = os.path.realpath(path)
        self._names = tuple(map(_components, dict.fromkeys((path, self._folder))))

    def open(self, path: str, max_bytes: int) -> OpenFile:
        """The file that ``path`` (absolute) names.

        Raises:
            MediaError: it isn't below the root, doesn't exist, can't be opened or is no regular
                file.
            LimitError: more than ``max_bytes``.
        """
        outside = MediaError("the file isn't within allowed_local_media_path.")
        wanted = self._below(path)
        if wanted is None:
            raise outside
        try:
            descriptor = self._walk(wanted)
        except _Outside:
            raise outside from None
        except (OSError, ValueError):
            raise MediaError("the local file can't be opened.") from None
        return OpenFile.of(descriptor, "the local file", max_bytes)

    def _below(self, path: str) -> list[str] | None:
        """The components behind the root; None if the path isn't below it."""
        parts = _components(path)
        if path.startswith("/") and "\0" not in path:
            for root in self._names:
                if parts[: len(root)] == root and len(parts) > len(root):
                    return parts[len(root) :]
        return None

    def _walk(self, wanted: list[str]) -> int:
        folders = [os.open(self._folder, _FOLDER)]
        try:
            num_links = 0
            todo = wanted[::-1]
            while todo:
                name = todo.pop()
                if name == "..":
                    if len(folders) == 1:
                        raise _Outside
                    os.close(folders.pop())
                    continue
                try:
                    flags = _FOLDER if todo else _READ | os.O_NOFOLLOW
                    descriptor = os.open(name, flags, dir_fd=folders[-1])
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    num_links += 1
                    if num_links > MAX_LINKS:
                        raise
                    # readlink raises for what is no link: a file where a folder should be.
                    target = os.readlink(name, dir_fd=folders[-1])
                    todo.extend(self._link_parts(target, folders)[::-1])
                    continue
                if not todo:
                    return descriptor
                folders.append(descriptor)
            raise _Outside  # the path ended at a folder on the way up
        finally:
            for folder in folders:
                os.close(folder)

    def _link_parts(self, target: str, folders: list[int]) -> list[str]:
        """The components to walk in a link's place; an absolute link begins at the root again."""
        if not target.startswith("/"):
            return _components(target)
        below = self._below(target)
        if below is None:
            raise _Outside
        while len(folders) > 1:
            os.close(folders.pop())
        return below


class _Outside(Exception):
    """The path leads out of the root."""


def _components(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise LimitError(f"its {num_bytes} bytes are more than the {max_bytes} allowed.")
