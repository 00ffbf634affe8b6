"""The other process answers call after call, and whatever a kind does there is told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sensorium.testing.other_process import CannotTravelError, digests_elsewhere
from sensorium.types import BytesSource


class Lengths:
    """As far as digests go, a kind: how many sources there are, and which process says so."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        pass

    def digest(self, sources: Sequence[Any]) -> bytes:
        print("no answer")
        return f"{len(sources)} {os.getpid()}".encode()


class Failing(Lengths):
    def digest(self, sources: Sequence[Any]) -> bytes:
        raise SystemExit("not today")


class Deadly(Lengths):
    def digest(self, sources: Sequence[Any]) -> bytes:
        os._exit(7)


def asked(kind: Any, *counts: int) -> list[list[str]]:
    several = [[BytesSource(b"x")] * count for count in counts]
    return [digest.decode().split() for digest in digests_elsewhere(kind, several)]


def test_one_process_answers_every_call() -> None:
    (one, pid), (three, again) = asked(Lengths, 1, 3)
    [[two, later]] = asked(Lengths, 2)
    assert (one, three, two) == ("1", "3", "2")
    assert pid == again == later != str(os.getpid())


def test_a_failure_is_told_and_the_next_call_answered() -> None:
    [[_, before]] = asked(Lengths, 1)
    with pytest.raises(AssertionError, match="not today"):
        asked(Failing, 1)
    [[_, after]] = asked(Lengths, 1)
    assert after == before


def test_a_death_is_told_and_another_process_answers() -> None:
    [[_, before]] = asked(Lengths, 1)
    with pytest.raises(AssertionError, match="failed in another process: exit status 7"):
        asked(Deadly, 1)
    [[_, after]] = asked(Lengths, 1)
    assert after != before


def test_a_class_of_this_process_alone_cannot_travel() -> None:
    class Local(Lengths):
        pass

    with pytest.raises(CannotTravelError, match="Local"):
        asked(Local, 1)
