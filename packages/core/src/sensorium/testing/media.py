"""Helpers of the contracts: an author's values → sources, loading and comparing."""

from __future__ import annotations

import copy
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sensorium.errors import RequestError
from sensorium.media.process import resolve_all
from sensorium.plugins.kind import MediaKind
from sensorium.plugins.reader import MediaReader
from sensorium.types import DerivedItem, Loaded, Source

T = TypeVar("T")


def missing(owner: object, name: str, what: str) -> NotImplementedError:
    """The error for a method that the author must define and hasn't."""
    return NotImplementedError(f"{type(owner).__name__} must define {name}: {what}.")


def sources_of(kind: MediaKind, value: Any) -> tuple[Source, ...]:
    """The fetched sources of one value, as ``multi_modal_data`` takes it."""
    items = kind.split(value)
    assert len(items) == 1, f"split made {len(items)} items of one value"
    return resolve_all(kind, items[0].sources)


def load(kind: MediaKind, value: Any) -> Loaded:
    """One value, loaded."""
    return kind.load(sources_of(kind, value))


def same(one: Any, other: Any) -> bool:
    """Whether two loaded values, features or parts of them are equal, dtype and shape included."""
    import numpy as np
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.is_floating_point():
            return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
        return torch.equal(one, other)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(
            one, other, equal_nan=one.dtype.kind == "f"
        )
    if isinstance(one, MediaReader) or isinstance(other, MediaReader):
        return same(_read(one), _read(other))
    if isinstance(one, Loaded) and isinstance(other, Loaded):
        return (one.shape, len(one.derived)) == (other.shape, len(other.derived)) and (
            same(one.value, other.value) and all(map(_same_derived, one.derived, other.derived))
        )
    if is_dataclass(one) and not isinstance(one, type) and type(one) is type(other):
        names = [field.name for field in fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def _same_derived(one: DerivedItem, other: DerivedItem) -> bool:
    return (one.kind, one.name) == (other.kind, other.name) and same(one.loaded, other.loaded)


def snapshot(value: Any) -> Any:
    """A copy to compare with later; of an opened item, its pieces."""
    if isinstance(value, MediaReader):
        return copy.deepcopy(_read(value))
    if isinstance(value, Loaded):
        derived = [replace(item, loaded=snapshot(item.loaded)) for item in value.derived]
        return replace(value, value=snapshot(value.value), derived=tuple(derived))
    return copy.deepcopy(value)


def _read(value: Any) -> Any:
    return list(value.pieces()) if isinstance(value, MediaReader) else value


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Passes if the block raises ``RequestError`` (as ``MediaError`` and ``LimitError`` are)."""
    try:
        yield
    except RequestError as error:
        if not str(error):
            raise AssertionError(f"{what} was refused without a sentence") from error
    except Exception as error:
        raise AssertionError(
            f"{what} raised {type(error).__name__}; only MediaError and LimitError may leave a kind"
        ) from error
    else:
        raise AssertionError(f"{what} was accepted")


@contextmanager
def within_budget(what: str, *, max_seconds: float, max_bytes: int) -> Iterator[None]:
    """Fails if the block takes longer, or more memory at its peak than when it began.

    Memory is counted twice, and the larger count holds: what Python and numpy allocated, touched
    or not, and what the process had in RAM, which a library in C can't hide.
    """
    traced_already = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        traced, resident = tracemalloc.get_traced_memory()[0], _restarted_peak()
        begun = time.monotonic()
        yield
        taken = time.monotonic() - begun
        grown = max(tracemalloc.get_traced_memory()[1] - traced, _peak_bytes() - resident)
    finally:
        if not traced_already:
            tracemalloc.stop()
    assert taken <= max_seconds, f"{what} took {taken:.1f} s; {max_seconds:.1f} s are allowed"
    assert grown <= max_bytes, f"{what} took {grown} bytes; {max_bytes} are allowed"


def _restarted_peak() -> int:
    """What is in RAM now; on Linux the process's peak is counted from here on."""
    with suppress(OSError):  # elsewhere growth shows only above the highest peak so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak_bytes()


def _peak_bytes() -> int:
    """The most that was in RAM at once; 0 where the system doesn't say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def given(values: Iterable[T], name: str) -> list[T]:
    """The values of an optional method; without any, the test is skipped with a reason."""
    found = list(values)
    if not found:
        pytest.skip(f"{name}() gives nothing to try")
    return found


def pairs(values: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """All pairs of places in ``values``."""
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            yield i, j
