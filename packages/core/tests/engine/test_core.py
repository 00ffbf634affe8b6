"""The step loop over a stand-in runner: a step is planned while the one before it runs."""

from __future__ import annotations

import pytest
import torch
from stand_in_runner import StandInRunner, expected_answer, item, request, scheduler_config

from sensorium.engine.core import EngineCore
from sensorium.errors import EngineError
from sensorium.scheduler import Scheduler
from sensorium.types import Batch, MediaSpan, RequestUpdate, StepOutput


class Slow(StandInRunner):
    """A runner whose steps are done when somebody asks for what came of them."""

    def __init__(self, *, overlaps: bool) -> None:
        super().__init__(scheduler_config())
        self.overlaps = overlaps
        self.open: list[Step] = []
        self.most_open = 0

    def launch(self, batch: Batch) -> Step:
        """Computed at once, told later."""
        step = Step(self, self.step(batch))
        self.open.append(step)
        self.most_open = max(self.most_open, len(self.open))
        return step


class Step:
    """One launched step."""

    def __init__(self, runner: Slow, output: StepOutput) -> None:
        self.runner, self.output = runner, output

    def result(self) -> StepOutput:
        """The oldest comes first."""
        assert self.runner.open.pop(0) is self
        return self.output


def run(core: EngineCore) -> dict[str, list[RequestUpdate]]:
    """All updates by request."""
    updates: dict[str, list[RequestUpdate]] = {}
    for _ in range(200):
        if not core.scheduler.has_work:
            break
        for update in core.step():
            updates.setdefault(update.request_id, []).append(update)
    assert not core.scheduler.has_work
    core.scheduler.check_integrity()
    return updates


@pytest.mark.parametrize("overlaps", [False, True])
def test_answers_are_the_same_and_steps_overlap(overlaps: bool) -> None:
    runner = Slow(overlaps=overlaps)
    core = EngineCore(Scheduler(runner.config), runner)  # type: ignore[arg-type]
    span = (MediaSpan(0, (0, 4), 2, 4),)
    asked = [request(f"text {i}", [1] * (i + 1), max_tokens=6, stop_ids=(0,)) for i in range(6)]
    asked += [
        request(f"item {i}", [i] + [1] * 9, items=(item(b"cat", 4),), spans=span) for i in (2, 3)
    ]
    for one in asked:
        core.scheduler.add(one)
    updates = run(core)
    for one in asked:
        news = updates[one.request_id]
        tokens = [token for update in news for token in update.new_token_ids]
        assert (tokens, news[-1].finish_reason) == expected_answer(one, runner.config)
    assert runner.most_open == 1 + overlaps
    assert not runner.open, "every step was taken in"
    assert not runner.requests


def test_a_step_that_encodes_is_taken_in_at_once() -> None:
    runner = Slow(overlaps=True)
    core = EngineCore(Scheduler(runner.config), runner)  # type: ignore[arg-type]
    span = (MediaSpan(0, (0, 4), 0, 4),)
    core.scheduler.add(request("a", [1] * 5, items=(item(b"cat", 4),), spans=span))
    core.step()
    assert not runner.open
    core.step()
    assert len(runner.open) == 1


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_step_that_raises_ends_its_own_requests(
    overlaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Slow(overlaps=overlaps)
    core = EngineCore(Scheduler(runner.config), runner)  # type: ignore[arg-type]
    core.scheduler.add(request("unlucky", [1, 2]))
    with monkeypatch.context() as patched:
        patched.setattr(runner, "launch", lambda batch: 1 / 0)
        updates = core.step()
        updates += core.step() if overlaps else []
    [last] = [update for update in updates if update.finish_reason]
    assert last.error == "The step that computed this request failed (ZeroDivisionError)."
    runner.requests.clear()
    lucky = request("lucky", [1, 2])
    core.scheduler.add(lucky)
    runner.requests["unlucky"], runner._tokens["unlucky"] = lucky, []  # it was never started there
    assert run(core)["lucky"][-1].finish_reason == "length"


def test_a_device_that_is_lost_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Slow(overlaps=True)
    core = EngineCore(Scheduler(runner.config), runner)  # type: ignore[arg-type]
    core.scheduler.add(request("a", [1, 2]))

    def lost(batch: Batch) -> Step:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    monkeypatch.setattr(runner, "launch", lost)
    with pytest.raises(torch.AcceleratorError):
        core.step()


def test_work_that_is_never_scheduled_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Slow(overlaps=True)
    core = EngineCore(Scheduler(runner.config), runner)  # type: ignore[arg-type]
    core.scheduler.add(request("a", [1]))
    monkeypatch.setattr(core.scheduler, "_admit_waiting", lambda step: None)
    with pytest.raises(EngineError, match="scheduled none of it"):
        core.step()
