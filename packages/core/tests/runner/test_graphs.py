"""What graphs are given and give back, with capturing stood in: a replay does recorded ops again.

So whatever is wrong with rows left over, tables or lengths shows on the CPU, and so does what was
read on the host while recording; whether the device's kernels can be captured is
tests/engine/test_graphs.py's affair.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recorded import Recorded
from tiny_runner import HIDDEN, VOCAB, MiniScheduler, Model, asked, item, step
from torch import Tensor

from sensorium.runner import Runner, decode_graphs, prefill_graphs
from sensorium.runner.decode_graphs import DecodeGraphs
from sensorium.runner.prefill_graphs import PrefillGraphs, _borders, prefill_sizes
from sensorium.runner.step_memory import fitting
from sensorium.sampling_params import SamplingParams
from sensorium.types import Batch, EngineRequest, MediaSpan

PROMPTS = {
    "one": [5],
    "page": [7, 8, 9, 10],
    "long": [i * 13 % VOCAB for i in range(3, 40)],
    "more": [i * 29 % VOCAB for i in range(1, 18)],
}
Replays = list[tuple[int, bool]]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Replays:
    """For each step that isn't decoding alone: its tokens, and whether it was replayed."""
    found: Replays = []
    run = PrefillGraphs.run

    def noted(self: PrefillGraphs, hidden: Tensor, flat: Any) -> Tensor | None:
        out = run(self, hidden, flat)
        found.append((len(hidden), out is not None))
        return out

    monkeypatch.setattr(PrefillGraphs, "run", noted)
    monkeypatch.setattr(prefill_graphs, "capture", Recorded)
    monkeypatch.setattr(decode_graphs, "capture", Recorded)
    return found


def with_graphs(runner: Runner, *sizes: int) -> Runner:
    forward = runner._forward
    with torch.inference_mode():
        forward._prefills = PrefillGraphs(forward._memory, list(sizes), None)
        forward._recorded = DecodeGraphs(forward._memory, [1, 3, 4], None)
    return runner


def answers(runner: Runner, chunk: int, requests: list[EngineRequest]) -> dict[str, list[int]]:
    scheduler = MiniScheduler(runner)
    scheduler.add(*requests)
    scheduler.run(6, chunk)
    assert not scheduler.failed
    step(runner, Batch(ended=tuple(request.request_id for request in requests)))
    return {request.request_id: scheduler.answer(request.request_id) for request in requests}


def requests(*names: str) -> list[EngineRequest]:
    return [asked(name, PROMPTS[name]) for name in names or PROMPTS]


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 1000])
def test_answers_are_those_without_graphs(model: Model, replays: Replays, chunk: int) -> None:
    """Prompts alone and together, prefill among what decodes, and rows left over by the dozen."""
    wanted = answers(model.runner(enforce_eager=True), chunk, requests())
    runner = with_graphs(model.runner(), 2, 8, 16, 64)
    assert answers(runner, chunk, requests()) == wanted
    assert replays
    assert all(replayed for _, replayed in replays)
    for name in PROMPTS:
        assert answers(runner, chunk, requests(name))[name] == wanted[name]


def test_steps_of_more_tokens_or_sequences_are_not_replayed(
    llama: Model, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill_graphs, "MAX_SEQS", 3)
    wanted = answers(llama.runner(enforce_eager=True), 1000, requests())
    runner = with_graphs(llama.runner(), 4, 16, 37)
    for names, tokens, replayed in (
        (("long",), 37, True),
        (("page",), 4, True),
        (("one", "page", "more"), 22, False),  # and one sequence of rows left over
        (("one", "page"), 5, True),
        (("long", "one"), 38, False),
    ):
        replays.clear()
        found = answers(runner, 1000, requests(*names))
        assert replays[0] == (tokens, replayed)
        assert found == {name: wanted[name] for name in names}


def test_the_longest_context_is_shorter_than_the_rows_left_over(
    llama: Model, replays: Replays
) -> None:
    """They lie in the spare page, however many they are."""
    options: dict[str, Any] = {"max_model_len": 12}
    wanted = answers(llama.runner(enforce_eager=True, **options), 1000, requests("page", "one"))
    runner = with_graphs(llama.runner(**options), 60)
    assert answers(runner, 1000, requests("page", "one")) == wanted
    assert replays[0] == (5, True)


@pytest.mark.parametrize(
    ("kind", "non_causal", "replayed"),
    [("scent", False, True), ("scent", True, False), ("deep scent", False, False)],
)
def test_items(llama: Model, replays: Replays, kind: str, non_causal: bool, replayed: bool) -> None:
    """Embeddings go in; what is added deeper, or seen in both directions, no graph knows."""
    span = MediaSpan(0, (0, 6), 5, 6, None, non_causal, non_causal)
    ids = [*PROMPTS["more"][:5], *[0] * 6, *PROMPTS["more"][5:]]
    given = [
        asked("seen", ids, spans=(span,), items=(item(b"a", 6, kind=kind),)),
        *requests("page"),
    ]
    wanted = answers(llama.runner(enforce_eager=True), 1000, given)
    found = answers(with_graphs(llama.runner(), 8, 40), 1000, given)
    assert found == wanted
    # A step with deep rows doesn't come as far as to ask.
    asked_for = [entry for entry in replays if entry[0] == len(ids) + 4]
    assert asked_for == ([] if kind == "deep scent" else [(len(ids) + 4, replayed)])


def test_rows_left_over_leave_no_trace(llama: Model, replays: Replays) -> None:
    """Not even if what lay in their memory before was not a number."""
    wanted = answers(llama.runner(enforce_eager=True), 1000, requests())
    runner = with_graphs(llama.runner(), 128)
    prefills = runner._forward._prefills
    assert prefills is not None
    assert prefills._hidden.shape == (128, HIDDEN)
    with torch.inference_mode():
        prefills._hidden.fill_(float("nan"))
    assert answers(runner, 1000, requests()) == wanted
    assert replays[0][1]
    assert runner._kv_cache.isfinite().all()


@pytest.mark.parametrize(
    ("budget", "sizes"),
    [
        (8192, [16, 32, 64, 128, 192, 256, 384, 512]),
        (512, [16, 32, 64, 128, 192, 256, 384, 512]),
        (100, [16, 32, 64, 100]),
        (16, [16]),
        (5, [5]),
    ],
)
def test_no_graph_is_larger_than_a_step_can_be(budget: int, sizes: list[int]) -> None:
    assert prefill_sizes(budget) == sizes
    assert fitting(sizes, min(budget, 512)) == sizes[-1]
    assert fitting(sizes, 1) == sizes[0]
    assert fitting(sizes, sizes[-1] + 1) is None


def test_sequences_are_followed_by_empty_ones() -> None:
    most = prefill_graphs.MAX_SEQS
    borders = _borders(((5, 9), (1, 30), (10, 10)))
    assert borders[: most + 1].tolist() == [0, 5, 6, *[16] * (most - 2)]
    assert borders[most + 1 :].tolist() == [9, 30, 10, *[0] * (most - 3)]
    full = _borders(((1, 1),) * most)
    assert full.tolist() == [*range(most + 1), *[1] * most]


@pytest.mark.parametrize("name", ["index", "slots"])
def test_what_the_host_knew_while_recording_is_seen_to_be_stale(
    llama: Model, replays: Replays, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A planted fault: a row of a step's numbers that was copied by way of the host."""
    forward = DecodeGraphs._forward

    def stale(self: DecodeGraphs, rows: Tensor) -> None:
        frozen = rows.clone()
        line = {"slots": 1, "index": 2}[name]
        frozen[line] = torch.from_numpy(rows[line].numpy().copy())
        forward(self, frozen)

    wanted = answers(llama.runner(enforce_eager=True), 1000, requests())

    def both() -> list[dict[str, list[int]]]:
        """By the same graphs, with all slots exchanged between."""
        runner = with_graphs(llama.runner(), 64)
        return [answers(runner, 1000, some) for some in (requests(), requests()[::-1])]

    assert both() == [wanted, wanted]
    monkeypatch.setattr(DecodeGraphs, "_forward", stale)
    assert both() != [wanted, wanted]


def test_every_owner_of_a_graphs_memory_changes_between_two_replays(
    llama: Model, replays: Replays
) -> None:
    """Other requests in other slots, with other pages, tokens and places."""
    runner = with_graphs(llama.runner(), 8, 64)
    eager = llama.runner(enforce_eager=True)
    for names in (("one", "page", "more"), ("long", "more", "one"), ("page", "long", "more")):
        assert answers(runner, 1000, requests(*names)) == answers(eager, 1000, requests(*names))


def test_the_best_tokens_are_chosen_in_a_graph(llama: Model, replays: Replays) -> None:
    """And all others outside of it, in the same step too; either way the next step finds them."""
    drawn = SamplingParams(temperature=0.9, seed=3, max_tokens=64).filled({})
    told = SamplingParams(temperature=0.0, logprobs=1, max_tokens=64).filled({})
    runner, eager = with_graphs(llama.runner(), 64), llama.runner(enforce_eager=True)
    recorded = runner._forward._recorded
    assert isinstance(recorded, DecodeGraphs)
    sizes: list[int] = []
    choose_best = recorded.choose_best
    recorded.choose_best = lambda count: sizes.append(count) or choose_best(count)  # type: ignore
    for others, plain in ((requests("one"), True), ([asked("d", [4, 5], drawn)], False)):
        given = [*requests("page", "long"), *others]
        sizes.clear()
        assert answers(runner, 1000, given) == answers(eager, 1000, given)
        assert sizes == ([3] * 5 if plain else [])
    assert answers(runner, 1, [asked("t", [4, 5], told)]) == answers(
        eager, 1, [asked("t", [4, 5], told)]
    )
    assert not sizes


def test_rows_that_hold_no_numbers_fail_alone_in_a_graph_too(
    llama: Model, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = with_graphs(llama.runner(), 64)
    scheduler = MiniScheduler(runner)
    scheduler.add(*requests("one", "page"))
    scheduler.run(2)
    recorded = runner._forward._recorded
    assert isinstance(recorded, DecodeGraphs)
    run = recorded.run

    def broken(chunks: Any, running: Any) -> Tensor | None:
        hidden = run(chunks, running)
        assert hidden is not None
        hidden[0] = float("nan")
        return hidden

    with monkeypatch.context() as patched:
        patched.setattr(recorded, "run", broken)
        scheduler.step({"one": 1, "page": 1})
    assert scheduler.failed == {"one": "The model's output for this request is not a number."}
    scheduler.run_only("page", 6)
    wanted = answers(llama.runner(enforce_eager=True), 1000, requests("page"))
    assert scheduler.answer("page")[:6] == wanted["page"]
