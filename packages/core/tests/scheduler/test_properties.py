"""Whatever arrives, whenever, in however little room: everyone gets its own answer.

The stand-in runner checks every slot that is read, every embedding that is used and the
budgets in every step; here histories are drawn, and planted faults show that it would notice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stand_in_grammar import Rule
from stand_in_runner import (
    VOCAB,
    StandInEngine,
    expected_answer,
    item,
    logprobs_of,
    request,
    scheduler_config,
    slot_values,
)

from sensorium.errors import LimitError, RequestError
from sensorium.scheduler import SchedulerConfig, encoder_book, prefix
from sensorium.scheduler import pins as pins_module
from sensorium.scheduler.layout import Layout
from sensorium.scheduler.page_pool import PagePool
from sensorium.scheduler.sequence import Sequence
from sensorium.types import EngineItem, EngineRequest, MediaSpan

#: key → (rows, bytes); few, so that requests meet
KEYS = {b"cat": (4, 30), b"dog": (6, 40), b"emu": (9, 70)}

#: 0.06 s each; tests marked slow draw twenty times as many. What is known to go wrong is planted
#: further down, and found without luck.
CHECKED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
THOROUGH = settings(CHECKED, max_examples=1000)


# --- what is drawn -------------------------------------------------------------------------


class Draft:
    """A prompt in the making; each method appends an item in another shape."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.tokens: list[int] = []
        self.items: list[EngineItem] = []
        self.spans: list[MediaSpan] = []

    def text(self, low: int, high: int) -> None:
        self.tokens += self.draw(st.lists(st.integers(0, 1), min_size=low, max_size=high))

    def whole(self) -> None:
        index, rows = self._item()
        atomic, non_causal = self.draw(
            st.sampled_from([(False, False), (True, False), (True, True)])
        )
        self._span(index, (0, rows), rows, None, atomic, non_causal)
        self.tokens += [1] * rows

    def masked(self) -> None:
        index, rows = self._item()
        mask = bytes([0] + [1] * (rows - 1) + [0, 1, 0])
        self._span(index, (0, rows), len(mask), mask, False, self.draw(st.booleans()))
        self.text(len(mask), len(mask))

    def split(self) -> None:
        """One item in two spans, perhaps around another item."""
        index, rows = self._item()
        self._span(index, (0, 2), 2)
        self.tokens += [1, 1]
        self.text(0, 4)
        if self.draw(st.booleans()):
            self.whole()
        self._span(index, (2, rows), rows - 2)
        self.tokens += [1] * (rows - 2)

    def interleaved(self) -> None:
        """Two items take turns, each with a mask over the same tokens."""
        first, second, atomic = self._item()[0], self._item()[0], self.draw(st.booleans())
        mask = bytes([1, 1, 0, 0, 1, 0, 1, 0])
        self._span(first, (0, 4), 8, mask, atomic)
        self._span(second, (0, 4), 8, bytes(1 - bit for bit in mask), atomic)
        self.tokens += [1] * 8

    def _item(self) -> tuple[int, int]:
        """Its index and its number of rows."""
        key = self.draw(st.sampled_from(sorted(KEYS)))
        rows, num_bytes = KEYS[key]
        self.items.append(item(key, rows, num_bytes=num_bytes))
        return len(self.items) - 1, rows

    def _span(
        self,
        index: int,
        rows: tuple[int, int],
        length: int,
        mask: bytes | None = None,
        atomic: bool = False,
        non_causal: bool = False,
    ) -> None:
        offset = len(self.tokens)
        self.spans.append(MediaSpan(index, rows, offset, length, mask, atomic, non_causal))


@st.composite
def prompts(draw: st.DrawFn) -> EngineRequest:
    """Text and items in turn."""
    draft = Draft(draw)
    for _ in range(draw(st.integers(0, 3))):
        draft.text(0, 7)
        shape = draw(st.sampled_from(["whole", "masked", "split", "interleaved"]))
        getattr(draft, shape)()
    draft.text(0 if draft.tokens else 1, 9)
    positions, delta = None, draw(st.integers(-1, 1))
    if draw(st.booleans()):
        steps = [draw(st.sampled_from([[1, 1], [1, 1], [0, 1]])) for _ in draft.tokens]
        positions = np.cumsum(np.array(steps), axis=0).T - 1
    max_tokens = draw(st.integers(1, 14))
    return request(
        "unnamed",
        draft.tokens,
        max_tokens=max_tokens,
        min_tokens=min(max_tokens, draw(st.sampled_from([0, 0, 3]))),
        stop_ids=draw(st.sampled_from([(), (0,)])),
        logprobs=draw(st.sampled_from([None, None, 0])),
        items=tuple(draft.items),
        spans=tuple(draft.spans),
        positions=positions,
        position_delta=delta,
        salt=draw(st.sampled_from(["", "", "other"])),
        bad_word_ids=draw(st.sampled_from([(), (), ((VOCAB, 1), (1, VOCAB + 40))])),
    )


@dataclass(frozen=True)
class Arrival:
    """A request, how many steps after the one before it comes, and what befalls it.

    Attributes:
        by_key: without features, if the encoder cache has its items just then.
        fails_at: which of its chunks fails.
        aborted_after: in which step after its arrival it is aborted.
        meanwhile: between that step's two halves instead of before it.
        rule: its grammar.
    """

    request: EngineRequest
    wait: int
    by_key: bool
    fails_at: int | None
    aborted_after: int | None
    meanwhile: bool
    rule: Rule | None


@st.composite
def rules(draw: st.DrawFn) -> Rule | None:
    """Grammars that force runs, that break down, and that end early."""
    if draw(st.booleans()):
        return None
    return Rule(
        seed=draw(st.integers(0, 3)),
        vocab_size=VOCAB,
        longest=draw(st.sampled_from([1, 5, 20])),
        fails_at=draw(st.sampled_from([None, None, None, 3])),
        ends_at=draw(st.sampled_from([None, 0, 4])),
        completes_at=draw(st.sampled_from([None, None, 3])),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Arrival]:
    arrivals = []
    pool = draw(st.lists(prompts(), min_size=1, max_size=4))
    for number in range(draw(st.sampled_from([1, 2, 3, 6, 12, 20]))):
        base = draw(st.sampled_from(pool))
        tail = tuple(draw(st.lists(st.integers(0, 1), max_size=3)))
        token_ids = base.token_ids + tail if base.positions is None else base.token_ids
        arrivals.append(
            Arrival(
                replace(
                    base,
                    request_id=str(number),
                    token_ids=token_ids,
                    priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
                ),
                wait=draw(st.sampled_from([0, 0, 1, 4])),
                by_key=draw(st.sampled_from([False, False, True])),
                fails_at=draw(st.sampled_from([None, None, None, 0, 1])),
                aborted_after=draw(st.sampled_from([None, None, None, 0, 2, 5])),
                meanwhile=draw(st.booleans()),
                rule=draw(rules()),
            )
        )
    return arrivals


@st.composite
def scenes(draw: st.DrawFn) -> tuple[SchedulerConfig, list[Arrival]]:
    """A history, and limits from roomy to just enough for each of its requests alone."""
    pieces = {key: draw(st.sampled_from([1, 1, 2, rows])) for key, (rows, _) in KEYS.items()}
    arrivals = [_divided(arrival, pieces) for arrival in draw(histories())]
    requests = [arrival.request for arrival in arrivals]
    chunked = draw(st.sampled_from([True, True, False]))
    page_size = draw(st.sampled_from([1, 2, 4, 7]))
    longest = max(len(r.token_ids) + r.max_tokens for r in requests)
    longest_prompt = max(len(r.token_ids) for r in requests)
    peak_bytes = max(Layout(r, chunked=chunked).peak_bytes for r in requests)
    config = SchedulerConfig(
        page_size=page_size,
        num_pages=-(-longest // page_size) + draw(st.sampled_from([0, 0, 3, 200])),
        max_num_batched_tokens=draw(st.sampled_from([12, 14, 30, 100])),
        max_num_seqs=draw(st.sampled_from([1, 3, 16, 16])),
        max_model_len=max(longest_prompt + 1, longest + draw(st.sampled_from([-2, 0, 10]))),
        prefix_caching=draw(st.booleans()),
        chunked_prefill=chunked,
        encoder_cache_bytes=peak_bytes + draw(st.sampled_from([0, 0, 30, 1000])),
        max_encode_pieces_per_step=draw(st.sampled_from([1, 2, 8])),
    )
    return config, arrivals


def _divided(arrival: Arrival, pieces: dict[bytes, int]) -> Arrival:
    items = tuple(replace(one, num_pieces=pieces[one.key]) for one in arrival.request.items)
    return replace(arrival, request=replace(arrival.request, items=items))


# --- what must hold ------------------------------------------------------------------------


DEPTHS = st.sampled_from([0, 1, 1])


def play(config: SchedulerConfig, arrivals: list[Arrival], depth: int) -> StandInEngine:
    """Runs a history to its end, which must come within a bounded number of steps."""
    failures = {(a.request.request_id, a.fails_at) for a in arrivals if a.fails_at is not None}
    named = frozenset((i, at) for i, at in failures if at is not None)
    rules = {a.request.request_id: a.rule for a in arrivals if a.rule is not None}
    engine = StandInEngine(config, named, depth, rules)
    abort_at: dict[int, list[Arrival]] = {}
    for arrival in arrivals:
        for _ in range(arrival.wait):
            _step(engine, abort_at)
        if arrival.aborted_after is not None:
            step = len(engine.batches) + arrival.aborted_after
            abort_at.setdefault(step, []).append(arrival)
        if is_refused(arrival):
            with pytest.raises(RequestError, match="broke down"):
                _add(engine, arrival)
        else:
            _add(engine, arrival)
    bound = sum(len(a.request.token_ids) + a.request.max_tokens + 2 for a in arrivals)
    bound += sum(one.num_pieces for a in arrivals for one in a.request.items)
    for _ in range(bound * (len(arrivals) + 1) * (depth + 1)):
        _step(engine, abort_at)
    engine.finish(max_steps=0)
    check_batches(engine)
    return engine


def is_refused(arrival: Arrival) -> bool:
    """Whether its grammar breaks down before the first token is sampled."""
    rule = arrival.rule
    first = () if rule is None else rule.forced(())
    return rule is not None and bool(first) and rule.breaks(first)


def check_batches(engine: StandInEngine) -> None:
    """Who is preempted doesn't come back in the same step."""
    for batch in engine.batches:
        assert not {request.request_id for request in batch.started} & set(batch.ended)


def _add(engine: StandInEngine, arrival: Arrival) -> None:
    """By its items' keys alone where that is asked for, can be and fits."""
    asked = arrival.request
    if arrival.by_key and all(engine.scheduler.has_embedding(i.key) for i in asked.items):
        by_key = replace(asked, items=tuple(replace(i, features={}) for i in asked.items))
        with contextlib.suppress(LimitError):
            engine.add(by_key)
            return
    engine.add(asked)


def _step(engine: StandInEngine, abort_at: dict[int, list[Arrival]]) -> None:
    if not engine.core.has_work:
        return
    due = abort_at.get(len(engine.batches), [])
    engine.abort(*(a.request.request_id for a in due if not a.meanwhile))
    if engine.core.has_work:
        engine.step(abort_meanwhile=[a.request.request_id for a in due if a.meanwhile])


def check_answers(engine: StandInEngine, arrivals: list[Arrival]) -> None:
    """Each answer is what the request gets alone, or a beginning of it where it was cut off."""
    may_break = any(a.fails_at is not None for a in arrivals)
    for arrival in arrivals:
        request_id = arrival.request.request_id
        if is_refused(arrival):
            assert request_id not in engine.updates
            continue
        tokens, reason = engine.answer(request_id)
        expected = expected_answer(arrival.request, engine.runner.config, arrival.rule)
        check_logprobs(engine, arrival.request, tokens)
        if reason in ("stop", "length"):
            assert (tokens, reason) == expected
            continue
        assert tokens == expected[0][: len(tokens)]
        if reason == "abort":
            assert arrival.aborted_after is not None
        else:
            assert reason == "error"
            breaks = arrival.rule is not None and arrival.rule.fails_at is not None
            assert may_break or arrival.by_key or breaks


def check_logprobs(engine: StandInEngine, asked: EngineRequest, tokens: list[int]) -> None:
    """Each token comes with its own, given ones too, or none does."""
    found = [one for update in engine.updates[asked.request_id] for one in update.logprobs]
    if asked.sampling.logprobs is None:
        assert not found
        return
    start = len(asked.token_ids) - 1
    values = slot_values(asked, [*asked.token_ids, *tokens])[start:-1] if tokens else []
    assert found == list(map(logprobs_of, values, tokens))


Scene = tuple[SchedulerConfig, list[Arrival]]


@CHECKED
@given(scenes(), DEPTHS)
def test_everyone_gets_the_answer_it_would_get_alone(scene: Scene, depth: int) -> None:
    """Also: all comes back, nobody starves, no wrong slot is read, the budgets are kept."""
    config, arrivals = scene
    check_answers(play(config, arrivals, depth), arrivals)


@pytest.mark.slow
@pytest.mark.timeout(900)
@THOROUGH
@given(scenes(), DEPTHS)
def test_everyone_gets_its_answer_in_many_scenes(scene: Scene, depth: int) -> None:
    config, arrivals = scene
    check_answers(play(config, arrivals, depth), arrivals)


@CHECKED
@given(scenes(), DEPTHS)
def test_without_failures_and_aborts_everyone_comes_to_its_end(scene: Scene, depth: int) -> None:
    check_calm(scene, depth)


@pytest.mark.slow
@pytest.mark.timeout(900)
@THOROUGH
@given(scenes(), DEPTHS)
def test_everyone_comes_to_its_end_in_many_scenes(scene: Scene, depth: int) -> None:
    check_calm(scene, depth)


def check_calm(scene: Scene, depth: int) -> None:
    config, arrivals = scene
    calm = [
        replace(
            a,
            by_key=False,
            fails_at=None,
            aborted_after=None,
            rule=None if a.rule is None else replace(a.rule, fails_at=None),
        )
        for a in arrivals
    ]
    engine = play(config, calm, depth)
    check_answers(engine, calm)
    assert {engine.answer(a.request.request_id)[1] for a in calm} <= {"stop", "length"}
    first = min(calm, key=lambda a: (a.request.priority, int(a.request.request_id)))
    if first.request.request_id == "0":
        assert engine.last("0").num_preemptions == 0, "the first in rank never stands back"
    for arrival in calm:
        last = engine.last(arrival.request.request_id)
        assert last.num_encoded_items + last.num_encoder_hits <= len(arrival.request.items)
        assert 0 <= last.num_cached_tokens < len(arrival.request.token_ids)


def woven(request_id: str, random: Random) -> EngineRequest:
    """Two to four items whose halves stand in any order, so that some are held for long."""
    num_items = random.randint(2, 4)
    numbers = [random.randrange(9) for _ in range(num_items)]
    items = tuple(item(bytes([n]), 6, num_bytes=10 + 7 * n) for n in numbers)
    order = [index for index in range(num_items) for _ in range(2)]
    random.shuffle(order)
    tokens: list[int] = [random.randrange(2)] * random.randint(0, 3)
    spans: list[MediaSpan] = []
    for place, index in enumerate(order):
        first_row = 3 * order[:place].count(index)
        spans.append(MediaSpan(index, (first_row, first_row + 3), len(tokens), 3))
        tokens += [1] * (3 + random.randint(0, 2))
    return request(request_id, [*tokens, 0], items=items, spans=tuple(spans))


@pytest.mark.parametrize("seed", range(20))
def test_items_held_for_long_in_the_least_room(seed: int) -> None:
    """Requests that each need several embeddings at a time block each other, and get on."""
    random = Random(seed)
    requests = [woven(str(number), random) for number in range(12)]
    peak_bytes = max(Layout(r, chunked=True).peak_bytes for r in requests)
    config = scheduler_config(
        num_pages=200,
        max_num_batched_tokens=random.choice([5, 20, 60]),
        prefix_caching=random.random() < 0.5,
        encoder_cache_bytes=peak_bytes,
    )
    engine = StandInEngine(config)
    engine.add(*requests)
    engine.finish()
    check_batches(engine)
    for asked in requests:
        assert engine.answer(asked.request_id) == expected_answer(asked, config)
    assert engine.last("0").num_preemptions == 0, "the earliest never stands back"


# --- faults that must be noticed -----------------------------------------------------------


def crowd() -> Iterator[EngineRequest]:
    """Prompts with equal tokens, and whatever else can differ, in little room."""
    yield request("12", [1] * 4 + [2] * 4 + [0], max_tokens=2)
    yield request("34", [3] * 4 + [4] * 4 + [0], max_tokens=2)
    for number in range(32):
        if number == 2:
            yield request("32", [3] * 4 + [2] * 4 + [0], max_tokens=2)
        if number == 28:
            yield request(
                "pieces",
                [4] * 2 + [1] * 6 + [0],
                max_tokens=2,
                items=(item(b"gnu", 6, num_bytes=60, num_pieces=5),),
                spans=(MediaSpan(0, (0, 6), 2, 6),),
            )
        key, other = (b"cat", b"dog") if number & 1 else (b"dog", b"cat")
        tail, shift, non_causal = 1 + (number >> 1 & 1), number >> 2 & 1, bool(number >> 3 & 1)
        positions = np.arange(24)[None].repeat(2, axis=0)
        positions[1, 6:] += shift
        mask = bytes([1, 1, 1, 0, 0, 0, 0, 1])
        spans = (
            MediaSpan(0, (0, 4), 3, 8, mask, non_causal, non_causal),
            MediaSpan(1, (0, 12), 12, 12),
        )
        yield request(
            f"items {number}",
            [1] * 10 + [tail] + [1] * 13,
            max_tokens=12,
            items=(item(key, 4, num_bytes=60), item(other, 12, num_bytes=60)),
            spans=spans,
            positions=positions,
        )
    for number in range(3):  # equal prompts that end inside a range that mustn't be cut
        yield request(
            f"ends {number}",
            [1] * 14,
            max_tokens=2,
            items=(item(b"emu", 10, num_bytes=60),),
            spans=(MediaSpan(0, (0, 10), 4, 10, None, True, True),),
        )


def run_crowd(depth: int = 0) -> StandInEngine:
    config = SchedulerConfig(
        page_size=4,
        num_pages=24,
        max_num_batched_tokens=10,
        max_num_seqs=8,
        max_model_len=64,
        prefix_caching=True,
        chunked_prefill=True,
        encoder_cache_bytes=100,
        max_encode_pieces_per_step=2,
    )
    engine = StandInEngine(config, depth=depth)
    requests = list(crowd())
    engine.add(*requests)
    engine.finish()
    for asked in requests:
        assert engine.answer(asked.request_id) == expected_answer(asked, config)
    return engine


@pytest.mark.parametrize("depth", [0, 1])
def test_the_crowd_without_a_fault(depth: int) -> None:
    engine = run_crowd(depth)
    stats = engine.scheduler.stats
    assert stats.num_preemptions > 0
    assert stats.num_prefix_hits > 0
    assert any(batch.evict for batch in engine.batches)


def _forget_media(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "_media_fields", lambda *_: iter(()))


def _forget_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "_position_offsets", lambda *_: None)


def _forget_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prefix._page_key
    monkeypatch.setattr(prefix, "_page_key", lambda parent, *rest: whole(b"", *rest))


def _enter_atomic_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sequence, "num_reusable_pages", lambda _, num_found: num_found)


def _free_what_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    release = PagePool.release

    def forgetful(pool: PagePool, pages: list[int]) -> None:
        release(pool, pages)
        pool._free.update(dict.fromkeys(pages))

    monkeypatch.setattr(PagePool, "release", forgetful)


def _unpin_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pin_chunk = pins_module.EncoderPins.pin_chunk

    def careless(pins: pins_module.EncoderPins, sequence: object, *limits: object) -> object:
        missing = pin_chunk(pins, sequence, *limits)  # type: ignore[arg-type]
        pins.unpin_all(sequence)  # type: ignore[arg-type]
        return missing

    monkeypatch.setattr(pins_module.EncoderPins, "pin_chunk", careless)


def _evict_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_book.EncoderBook, "take_evicted", lambda _: ())


def _encode_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pin_chunk = pins_module.EncoderPins.pin_chunk

    def careless(pins: pins_module.EncoderPins, sequence: Sequence, stop: int, _: object) -> object:
        return pin_chunk(pins, sequence, stop, None)

    monkeypatch.setattr(pins_module.EncoderPins, "pin_chunk", careless)


def _forget_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for = encoder_book.EncoderBook.ask_for

    def forgetful(book: encoder_book.EncoderBook, key: bytes, count: int) -> int:
        return ask_for(book, key, count) + 1

    monkeypatch.setattr(encoder_book.EncoderBook, "ask_for", forgetful)


FAULTS: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (_forget_media, "wrong slot"),
    (_forget_positions, "wrong slot"),
    (_forget_parents, "wrong slot"),
    (_enter_atomic_ranges, "atomic span was cut"),
    (_free_what_others_hold, "free list"),
    (_unpin_at_once, "embedding isn't there"),
    (_evict_nothing, "exceed their budget"),
    (_encode_any_number, "wait for too many pieces"),
    (_forget_what_was_asked_for, "out of order"),
]


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(("plant", "words"), FAULTS)
def test_a_planted_fault_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None],
    words: str,
    depth: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=words):
        run_crowd(depth)
