"""An opened item: what fails in it is the item's fault, and it is closed whatever happens."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from sensorium.errors import LimitError, MediaError, PluginError
from sensorium.media.process import process
from sensorium.plugins import MediaReader
from sensorium.plugins.guard import GuardedAdapter
from sensorium.testing import model_context
from sensorium.types import DerivedItem, Loaded, MediaPlan, MediaShape


class Tape(MediaReader):
    """Three numbers, unless one of them is an error to raise."""

    def __init__(self, *numbers: Any) -> None:
        self.numbers = numbers
        self.num_closed = 0

    def read_pieces(self, wanted: Any) -> Iterator[Any]:
        for number in self.numbers[slice(wanted)]:
            if isinstance(number, BaseException):
                raise number
            yield number

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def adapter(make: Any) -> Any:
    def process_(self: Any, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]) -> Any:
        pieces = list(loaded.value.pieces(options.get("wanted")))
        return {"nose": {"sum": torch.tensor([sum(pieces) / options.get("divisor", 1)])}}

    return GuardedAdapter.make(make.adapter(process=process_), model_context(), "scents")


def run(adapter: Any, tape: Tape, *derived: Tape, **options: Any) -> list[Any]:
    def loaded(value: Tape, found: tuple[DerivedItem, ...] = ()) -> Loaded:
        return Loaded(value, MediaShape((1,)), found)

    inside = tuple(DerivedItem("scent", str(i), loaded(one)) for i, one in enumerate(derived))
    return list(process("scent", loaded(tape, inside), {"scent": adapter}, {"scent": options}))


def test_an_adapter_pulls_the_pieces_it_wants_and_core_closes(adapter: Any) -> None:
    tape, inside = Tape(1, 2, 3), Tape(4)
    parts = run(adapter, tape, inside, wanted=2)
    assert [float(part.features["nose"]["sum"]) for part in parts] == [3.0, 4.0]
    assert (tape.num_closed, inside.num_closed) == (1, 1)


@pytest.mark.parametrize("error", [OSError("libtape: /dev/tape0 is gone"), ValueError()])
def test_what_fails_inside_is_the_items_fault(adapter: Any, error: Exception) -> None:
    tape = Tape(1, error)
    with pytest.raises(MediaError, match=r"^it can't be read to its end") as raised:
        run(adapter, tape)
    assert "libtape" not in str(raised.value)
    assert tape.num_closed == 1


def test_its_own_words_are_kept(adapter: Any) -> None:
    with pytest.raises(LimitError, match="longer than it said"):
        run(adapter, Tape(LimitError("it is longer than it said.")))


def test_what_fails_outside_is_the_adapters(adapter: Any) -> None:
    tape, inside = Tape(1), Tape(2)
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        run(adapter, tape, inside, divisor=0)
    assert (tape.num_closed, inside.num_closed) == (1, 1)


def test_a_reader_that_fails_to_close_costs_nothing(
    adapter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Tape):
        def close(self) -> None:
            raise OSError

    assert len(run(adapter, Stuck(1), Tape(2))) == 2
    assert "Stuck" in caplog.text
