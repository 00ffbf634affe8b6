"""Errors by their names, and the sentences that stand for them on the way."""

from __future__ import annotations

import pickle

import pytest

from sensorium import errors
from sensorium.errors import (
    CacheMissError,
    EngineError,
    Failure,
    MediaError,
    OverloadedError,
    SensoriumError,
    named_error,
)

CLASSES = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, SensoriumError)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_comes_back_by_its_name(kind: type[SensoriumError]) -> None:
    failure = Failure.of(kind("what happened"))
    assert failure == "what happened"
    found = named_error(failure.error_class, failure)
    assert type(found) is kind
    assert str(found) == "what happened"


@pytest.mark.parametrize("name", ["KeyError", "Failure", "named_error", "annotations", ""])
def test_names_of_other_things_are_no_errors(name: str) -> None:
    assert named_error(name, "x") is None


def test_what_belongs_to_a_class_is_kept() -> None:
    found = named_error("CacheMissError", "gone", retryable=True)
    assert isinstance(found, CacheMissError)
    assert found.retryable
    assert OverloadedError("full", retry_after_s=3.0).retry_after_s == 3.0


def test_a_failure_is_its_sentence_and_crosses_a_pipe() -> None:
    failure = Failure.of(MediaError("bad"))
    again = pickle.loads(pickle.dumps(failure))
    assert (str(again), again.error_class) == ("bad", "MediaError")
    assert Failure("x").error_class == EngineError.__name__
