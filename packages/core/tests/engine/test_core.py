"""The step loop over a stand-in runner: a step is planned while the one before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from stand_in_grammar import Rule, StandInGrammars
from stand_in_runner import (
    VOCAB,
    StandInRunner,
    StandInStep,
    expected_answer,
    item,
    request,
    scheduler_config,
)

from sensorium.engine.core import EngineCore
from sensorium.errors import EngineError
from sensorium.scheduler import Scheduler
from sensorium.types import Batch, EngineRequest, MediaSpan, RequestUpdate


def made(
    *,
    overlaps: bool,
    rules: Mapping[str, Rule] | None = None,
    failures: frozenset[tuple[str, int]] = frozenset(),
    **limits: Any,
) -> tuple[EngineCore, StandInRunner]:
    runner = StandInRunner(scheduler_config(**limits), failures, overlaps=overlaps)
    return EngineCore(Scheduler(runner.config), runner, StandInGrammars(rules or {})), runner


def run(core: EngineCore, runner: StandInRunner) -> dict[str, list[RequestUpdate]]:
    """All updates by request."""
    updates: dict[str, list[RequestUpdate]] = {}
    for _ in range(200):
        if not core.has_work:
            break
        for update in core.step():
            updates.setdefault(update.request_id, []).append(update)
    assert not core.has_work
    assert runner.wrong is None
    assert not runner.open, "every step was taken in"
    assert not runner.requests
    core.scheduler.check_integrity()
    return updates


def answer(news: list[RequestUpdate]) -> tuple[list[int], str | None]:
    return [token for update in news for token in update.new_token_ids], news[-1].finish_reason


@pytest.mark.parametrize("overlaps", [False, True])
def test_answers_are_the_same_and_steps_overlap(overlaps: bool) -> None:
    core, runner = made(overlaps=overlaps)
    span = (MediaSpan(0, (0, 4), 2, 4),)
    asked = [request(f"text {i}", [1] * (i + 1), max_tokens=6, stop_ids=(0,)) for i in range(6)]
    asked += [
        request(f"item {i}", [i] + [1] * 9, items=(item(b"cat", 4),), spans=span) for i in (2, 3)
    ]
    for one in asked:
        core.add(one)
    updates = run(core, runner)
    for one in asked:
        assert answer(updates[one.request_id]) == expected_answer(one, runner.config)
    assert runner.most_open == 1 + overlaps


def test_a_step_that_encodes_overlaps_but_for_those_who_wait_for_its_outcome() -> None:
    core, runner = made(overlaps=True, prefix_caching=False)
    cat = {"items": (item(b"cat", 4),), "spans": (MediaSpan(0, (0, 4), 1, 4),)}
    batches: list[Batch] = []
    runner.on_launch = batches.append
    core.add(request("first", [1] * 6, **cat))
    core.step()
    core.add(request("same", [2] * 6, **cat))
    core.add(request("other", [3]))
    core.step()
    assert len(runner.open) == 1, "the step that encodes has been taken in only now"
    run(core, runner)
    sizes = [{c.request_id: len(c.token_ids) for c in batch.chunks} for batch in batches]
    assert sizes[:3] == [
        {"first": 6},
        {"first": 1, "same": 1, "other": 1},
        {"first": 1, "same": 5, "other": 1},
    ]
    assert runner.num_encodes == {b"cat": 1}
    assert runner.most_open == 2


def test_who_waited_for_an_item_that_could_not_be_encoded_encodes_it_anew() -> None:
    core, runner = made(overlaps=True, failures=frozenset({("first", 0)}))
    cat = {"items": (item(b"cat", 4),), "spans": (MediaSpan(0, (0, 4), 1, 4),)}
    core.add(request("first", [1] * 6, **cat))
    core.step()
    core.add(asked := request("same", [2] * 6, **cat))
    updates = run(core, runner)
    assert updates["first"][-1].finish_reason == "error"
    assert answer(updates["same"]) == expected_answer(asked, runner.config)


@pytest.mark.parametrize("half", ["_launch", "sample"])
@pytest.mark.parametrize("overlaps", [False, True])
def test_a_step_that_raises_ends_its_own_requests(
    overlaps: bool, half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, runner = made(overlaps=overlaps)
    core.add(request("unlucky", [1, 2]))
    whole = getattr(runner, half)

    def broken(*given: Any) -> None:
        """It does what it is asked for, and then breaks."""
        runner.open.remove(whole(*given))
        runner._launched = None
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(runner, half, broken)
        updates = core.step()
    updates += core.step() if overlaps else []
    [last] = [update for update in updates if update.finish_reason]
    assert last.error == "The step that computed this request failed (ZeroDivisionError)."
    core.add(request("lucky", [1, 2]))
    assert run(core, runner)["lucky"][-1].finish_reason == "length"


def test_a_device_that_is_lost_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    core, runner = made(overlaps=True)
    core.add(request("a", [1, 2]))

    def lost(batch: Batch) -> StandInStep:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    monkeypatch.setattr(runner, "launch", lost)
    with pytest.raises(torch.AcceleratorError):
        core.step()


def test_work_that_is_never_scheduled_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    core, _ = made(overlaps=True)
    core.add(request("a", [1]))
    monkeypatch.setattr(core.scheduler, "_admit_waiting", lambda step: None)
    with pytest.raises(EngineError, match="scheduled none of it"):
        core.step()


# --- what the host must know before sampling ----------------------------------------------


def constrained(overlaps: bool, asked: EngineRequest, rule: Rule) -> list[RequestUpdate]:
    core, runner = made(overlaps=overlaps, rules={asked.request_id: rule})
    core.add(request("free", [1, 2, 3], max_tokens=9))
    core.add(asked)
    updates = run(core, runner)
    assert answer(updates[asked.request_id]) == expected_answer(asked, runner.config, rule)
    free = request("free", [1, 2, 3], max_tokens=9)
    assert answer(updates["free"]) == expected_answer(free, runner.config)
    assert runner.most_open == 1 + overlaps, "a grammar costs no overlap"
    return updates[asked.request_id]


@pytest.mark.parametrize("logprobs", [None, 0])
@pytest.mark.parametrize("overlaps", [False, True])
def test_grammars_say_what_may_and_what_must_follow(overlaps: bool, logprobs: int | None) -> None:
    several = 0
    for seed in range(20):
        asked = request("a", [4, 1], max_tokens=12, stop_ids=(3,), logprobs=logprobs)
        news = constrained(overlaps, asked, Rule(seed, VOCAB))
        several += sum(len(update.new_token_ids) > 1 for update in news)
        if logprobs is not None:
            assert all(len(update.logprobs) == len(update.new_token_ids) for update in news)
    assert several > 10, "forced tokens are told together"


@pytest.mark.parametrize("logprobs", [None, 0])
@pytest.mark.parametrize("overlaps", [False, True])
def test_a_complete_answer_ends(overlaps: bool, logprobs: int | None) -> None:
    """Whatever it ends with, and though the step behind it runs already."""
    for seed in range(20):
        asked = request(
            "a", [4, 1], max_tokens=12, stop_ids=(3,), min_tokens=seed % 3 * 5, logprobs=logprobs
        )
        news = constrained(overlaps, asked, Rule(seed, VOCAB, completes_at=seed % 6 + 1))
        last = [token for update in news for token in update.new_token_ids][-1]
        assert news[-1].stop_id == (last if last == 3 else None)
        if logprobs is not None:
            assert all(len(update.logprobs) == len(update.new_token_ids) for update in news)


@pytest.mark.parametrize("overlaps", [False, True])
def test_forced_tokens_are_computed_together(overlaps: bool) -> None:
    """With overlap, the step in flight computes the first of them, and the next the rest."""

    class Phrase(Rule):
        def forced(self, answer: Any) -> tuple[int, ...]:
            return (4, 4, 4, 4) if len(answer) == 1 else ()

        def allowed(self, answer: Any) -> list[int]:
            return list(range(VOCAB))

    core, runner = made(overlaps=overlaps, rules={"a": Phrase(0, VOCAB)})
    core.add(request("a", [1, 2], max_tokens=8))
    batches: list[Batch] = []
    runner.on_launch = batches.append
    run(core, runner)
    sizes = [len(chunk.token_ids) for batch in batches for chunk in batch.chunks]
    assert sizes == ([2, 1, 4, 1, 1] if overlaps else [2, 5, 1, 1])


def test_an_answer_that_is_forced_from_the_beginning_needs_no_step() -> None:
    class Word(Rule):
        def forced(self, answer: Any) -> tuple[int, ...]:
            return (2, 3, 0)

    core, runner = made(overlaps=True, rules={"a": Word(0, VOCAB)})
    core.add(request("a", [1], max_tokens=8, stop_ids=(0,)))
    news = run(core, runner)["a"]
    assert answer(news) == ([2, 3, 0], "stop")
    assert news[-1].stop_id == 0
    assert runner.max_batched_tokens == 0


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_grammar_that_breaks_down_ends_its_request_alone(overlaps: bool) -> None:
    core, runner = made(overlaps=overlaps, rules={"a": Rule(5, VOCAB, fails_at=3)})
    core.add(request("a", [1, 2], max_tokens=9))
    core.add(other := request("b", [3], max_tokens=9))
    updates = run(core, runner)
    assert updates["a"][-1].finish_reason == "error"
    assert updates["a"][-1].error == "The grammar broke down."
    assert answer(updates["b"]) == expected_answer(other, runner.config)


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_grammar_that_can_not_say_what_may_follow_ends_its_request_alone(
    overlaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, runner = made(overlaps=overlaps, rules={"a": Rule(5, VOCAB), "b": Rule(6, VOCAB)})
    fill = StandInGrammars.fill

    def failing(self: StandInGrammars, ids: Any, words: Any) -> dict[str, str]:
        fill(self, ids, words)
        return {"a": "No idea."} if "a" in ids else {}

    monkeypatch.setattr(StandInGrammars, "fill", failing)
    core.add(request("a", [1, 2]))
    core.add(other := request("b", [1, 2]))
    updates = run(core, runner)
    assert (updates["a"][-1].finish_reason, updates["a"][-1].error) == ("error", "No idea.")
    assert answer(updates["b"]) == expected_answer(other, runner.config, Rule(6, VOCAB))


@pytest.mark.parametrize("overlaps", [False, True])
def test_bad_words_are_known_in_time(overlaps: bool) -> None:
    """Whatever is sampled in a step that runs already counts in the next one."""
    core, runner = made(overlaps=overlaps)
    free = request("a", [1, 2], max_tokens=12)
    tokens, _ = expected_answer(free, runner.config)
    word = tuple(tokens[2:5])
    core.add(request("a", [1, 2], max_tokens=12, bad_word_ids=(word, (VOCAB + 40, 1))))
    found, reason = answer(run(core, runner)["a"])
    assert (found[:4], reason) == (tokens[:4], "length")
    assert found[4] != tokens[4]
    assert not any(tuple(found[i : i + 3]) == word for i in range(12))
    assert runner.most_open == 1 + overlaps, "bad words cost no overlap"


@pytest.mark.parametrize("overlaps", [False, True])
def test_an_id_that_is_used_again_while_its_step_runs(overlaps: bool) -> None:
    rules = {"a": Rule(7, VOCAB)}
    core, runner = made(overlaps=overlaps, rules=rules)
    core.add(request("a", [1, 2], max_tokens=9))
    core.step()
    assert [update.finish_reason for update in core.abort(["a"])] == ["abort"]
    rules_again = Rule(8, VOCAB)
    core._constraints._grammars.rules["a"] = rules_again  # type: ignore[union-attr]
    core.add(again := request("a", [3], max_tokens=9))
    assert answer(run(core, runner)["a"]) == expected_answer(again, runner.config, rules_again)
