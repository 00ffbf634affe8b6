"""An engine is given back once: by closing, or when nobody refers to it; never by a fork."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from sensorium.engine.owner import Owner
from sensorium.errors import EngineError


class Face:
    """What callers hold."""

    def __init__(self, closed_in: list[threading.Thread]) -> None:
        self.owner = Owner(self, lambda: closed_in.append(threading.current_thread()))


def test_closing_twice_closes_once() -> None:
    closed_in: list[threading.Thread] = []
    face = Face(closed_in)
    assert not face.owner.closed
    face.owner.close()
    face.owner.close()
    assert face.owner.closed
    del face
    gc.collect()
    assert closed_in == [threading.current_thread()]


def test_dropping_the_last_reference_closes_before_it_goes_on() -> None:
    closed_in: list[threading.Thread] = []
    face = Face(closed_in)
    face.itself = face  # type: ignore[attr-defined]
    del face
    gc.collect()
    assert len(closed_in) == 1
    assert closed_in[0] is not threading.current_thread(), "the collector may hold any lock"


def test_a_fork_leaves_the_parents_engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    closed_in: list[threading.Thread] = []
    face = Face(closed_in)
    face.owner.check_process()
    pid = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid + 1)
        with pytest.raises(EngineError, match=rf"made by process {pid}, .*after forking"):
            face.owner.check_process()
        face.owner.close()
    assert not closed_in
    face.owner.close()
    assert closed_in
