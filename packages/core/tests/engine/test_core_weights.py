"""The whole step loop over random weights in float32: every token is the one that transformers
would choose, whatever is forced, given, preempted or aborted beside it."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from stand_in_grammar import Rule, StandInGrammars
from tiny_runner import PAGE_SIZE, VOCAB, Model

from sensorium.engine.core import EngineCore
from sensorium.runner import Runner
from sensorium.sampling_params import SamplingParams
from sensorium.scheduler import Scheduler, SchedulerConfig
from sensorium.types import EngineRequest, ExecutorInfo, RequestUpdate

#: Two logits of the reference that lie this close may be exchanged.
TIE = 1e-4
GREEDY = {"temperature": 0.0}
DRAWN = {"temperature": 1.2, "seed": 7, "repetition_penalty": 1.2, "frequency_penalty": 0.3}


class Ahead:
    """A runner whose steps are planned one ahead, as on an accelerator."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.launch, self.sample, self.close = runner.launch, runner.sample, runner.close

    @property
    def info(self) -> ExecutorInfo:
        return replace(self._runner.info, overlaps=True)


def core_of(
    runner: Runner, rules: dict[str, Rule], *, overlaps: bool, num_pages: int
) -> EngineCore:
    config = SchedulerConfig(
        page_size=PAGE_SIZE,
        num_pages=num_pages,
        max_num_batched_tokens=12,
        max_num_seqs=4,
        max_model_len=runner.max_model_len,
        prefix_caching=True,
        chunked_prefill=True,
        encoder_cache_bytes=0,
    )
    executor: Any = Ahead(runner) if overlaps else runner
    return EngineCore(Scheduler(config), executor, StandInGrammars(rules))


def drawn_requests(random: Random) -> tuple[list[EngineRequest], dict[str, Rule]]:
    """Three that grow out of the pages that there are; then, half of them with a grammar, some with
    log-probabilities, some drawing by a seed."""
    growing = SamplingParams(**GREEDY, logprobs=1, max_tokens=26).filled({})
    requests = [EngineRequest(f"grows {i}", (i, 5), growing, 26) for i in range(3)]
    rules = {"grows 1": Rule(1, VOCAB, longest=3)}
    for number in range(8):
        name = str(number)
        options = dict(random.choice([GREEDY, GREEDY, DRAWN]), logprobs=random.choice([None, 2]))
        max_tokens = random.choice([1, 12, 14, 14])
        requests.append(
            EngineRequest(
                name,
                tuple(random.randrange(VOCAB) for _ in range(random.choice([1, 3, 9, 20]))),
                SamplingParams(**options, max_tokens=max_tokens).filled({}),
                max_tokens,
                stop_ids=frozenset({0}),
            )
        )
        if random.random() < 0.6:
            ends_at = random.choice([None, 3])
            rules[name] = Rule(random.randrange(99), VOCAB, longest=6, ends_at=ends_at)
    return requests, rules


def play(core: EngineCore, requests: list[EngineRequest], random: Random | None) -> dict[str, Any]:
    """Runs them; with ``random`` they arrive one by one, and one is aborted on the way."""
    updates: dict[str, list[RequestUpdate]] = {}
    waiting = list(requests)
    for step in range(400):
        while waiting and (random is None or random.random() < 0.9):
            core.add(waiting.pop(0))
        news = core.abort(["2"]) if random is not None and step == 9 else []
        for update in [*news, *core.step()] if core.has_work else news:
            updates.setdefault(update.request_id, []).append(update)
        core.scheduler.check_integrity()
        if not waiting and not core.has_work:
            return updates
    raise AssertionError("not done after 400 steps")


def check_greedy(
    model: Model, asked: EngineRequest, news: list[RequestUpdate], rule: Rule | None
) -> None:
    """Forced tokens are the grammar's, the others the best that it allows; log-probabilities are
    of the raw distribution."""
    answer = [token for update in news for token in update.new_token_ids]
    if not answer:
        return
    with torch.inference_mode():
        whole = torch.tensor([[*asked.token_ids, *answer[:-1]]])
        logits = model.theirs(whole).logits[0, len(asked.token_ids) - 1 :]
    raw = logits.log_softmax(-1)
    reports = [one for update in news for one in update.logprobs]
    assert len(reports) == (0 if asked.sampling.logprobs is None else len(answer))
    for place, report in enumerate(reports):
        assert report.logprob == pytest.approx(float(raw[place, answer[place]]), abs=1e-4)
    if not asked.sampling.greedy:
        return
    place = 0
    while place < len(answer):
        for token in () if rule is None else rule.forced(answer[:place]):
            if place < len(answer):
                assert answer[place] == token
                place += 1
        if place < len(answer):
            allowed = range(VOCAB) if rule is None else rule.allowed(answer[:place])
            best = max(float(logits[place, token]) for token in allowed)
            assert answer[place] in allowed
            assert best - float(logits[place, answer[place]]) <= TIE
            place += 1


#: What a request of a seed gets alone: (seed, request) → its updates.
Lone = dict[tuple[int, str], list[RequestUpdate]]


@pytest.fixture(scope="module")
def lone() -> Lone:
    """Filled by the first test of a seed."""
    return {}


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in range(2, 12))]
)
def test_whatever_runs_beside_it(llama: Model, lone: Lone, seed: int, overlaps: bool) -> None:
    random = Random(seed)
    requests, rules = drawn_requests(random)
    core = core_of(llama.runner(), rules, overlaps=overlaps, num_pages=9)
    crowd = play(core, requests, random)
    assert core.scheduler.stats.num_preemptions > 0, "there is to be pressure"
    core.close()
    runner = llama.runner()
    for asked in requests:
        news, rule = crowd[asked.request_id], rules.get(asked.request_id)
        check_greedy(llama, asked, news, rule)
        if (seed, asked.request_id) not in lone:
            own_rule = {} if rule is None else {asked.request_id: rule}
            core = core_of(runner, own_rule, overlaps=False, num_pages=60)
            [lone[seed, asked.request_id]] = play(core, [asked], None).values()
        by_itself = lone[seed, asked.request_id]
        lone_answer = [token for update in by_itself for token in update.new_token_ids]
        answer = [token for update in news for token in update.new_token_ids]
        if news[-1].finish_reason == "abort":
            assert answer == lone_answer[: len(answer)]
        else:
            assert (answer, news[-1].finish_reason) == (lone_answer, by_itself[-1].finish_reason)
    runner.close()
