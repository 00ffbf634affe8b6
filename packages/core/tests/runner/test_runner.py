"""What the runner computes equals transformers, however the scheduler cuts it up."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny_runner import (
    GREEDY,
    HIDDEN,
    KINDS,
    VOCAB,
    Adapter,
    MiniScheduler,
    Model,
    asked,
    item,
    step,
)
from torch import Tensor

from sensorium.errors import Failure, MediaError
from sensorium.pooling_params import PoolingParams
from sensorium.runner import Runner
from sensorium.sampling_params import SamplingParams
from sensorium.types import PENDING, Batch, Chunk, EngineItem, EngineRequest, MediaSpan

PROMPTS = {
    "one": [5],
    "page": [7, 8, 9, 10],
    "long": [i * 13 % VOCAB for i in range(3, 40)],
    "more": [i * 29 % VOCAB for i in range(1, 18)],
}
#: Two logits of the reference that lie this close may be exchanged.
TIE = 1e-4


def check_greedy(
    model: Model, request: EngineRequest, answer: Sequence[int], embeds: Tensor, mask: Any = None
) -> None:
    """Every token of ``answer`` is transformers' best, given the prompt's ``embeds``."""
    whole = torch.cat([embeds, model.embed(answer[:-1])])
    logits = model.logits(whole, mask)[len(embeds) - 1 :]
    assert len(logits) == len(answer) > 0
    for row, token in zip(logits, answer, strict=True):
        assert float(row.max() - row[token]) <= TIE


def check_text(model: Model, scheduler: MiniScheduler, request_id: str) -> None:
    ids = PROMPTS[request_id]
    answer = scheduler.answer(request_id)
    check_greedy(model, asked(request_id, ids), answer, model.embed(ids))


@pytest.fixture
def runner(model: Model) -> Any:
    runner = model.runner()
    yield runner
    runner.close()


# --- text -------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 1000])
def test_greedy_tokens_across_chunk_sizes(model: Model, runner: Runner, chunk: int) -> None:
    scheduler = MiniScheduler(runner)
    scheduler.add(*(asked(name, ids) for name, ids in PROMPTS.items()))
    scheduler.run(6, chunk)
    for name in PROMPTS:
        check_text(model, scheduler, name)


def test_prefill_and_decode_mix_in_one_step(model: Model, runner: Runner) -> None:
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("one", PROMPTS["one"]), asked("page", PROMPTS["page"]))
    scheduler.step({"one": 1, "page": 2})
    scheduler.add(asked("long", PROMPTS["long"]))
    scheduler.step({"one": 1, "long": 10, "page": 2})
    scheduler.step({"long": 5, "one": 1})
    scheduler.add(asked("more", PROMPTS["more"]))
    scheduler.run(5, chunk=6)
    for name in PROMPTS:
        check_text(model, scheduler, name)


def test_a_preempted_request_goes_on_where_it_was(model: Model, runner: Runner) -> None:
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("long", PROMPTS["long"]), asked("page", PROMPTS["page"]))
    scheduler.run(4)
    scheduler.preempt("long")
    scheduler.run(8, chunk=9)
    check_text(model, scheduler, "long")
    check_text(model, scheduler, "page")


def test_only_chunks_that_reach_the_end_sample(model: Model, runner: Runner) -> None:
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("long", PROMPTS["long"]), asked("one", PROMPTS["one"]))
    output = scheduler.step({"long": 10, "one": 1})
    assert [token.request_id for token in output.tokens] == ["one"]
    assert scheduler.step({"long": 10}).tokens == ()


def test_a_step_without_chunks_only_forgets(model: Model, runner: Runner) -> None:
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("one", PROMPTS["one"]))
    scheduler.run(1)
    output = step(runner, Batch(ended=("one", "unknown"), evict=(b"unknown",)))
    assert (output.tokens, dict(output.failed)) == ((), {})


def test_a_token_that_is_not_known_yet_is_found_on_the_device(model: Model) -> None:
    """Steps are launched before those ahead of them are read, penalties and seeds included."""
    sampled = SamplingParams(
        temperature=1.1, seed=5, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2
    ).filled({})
    plain = {"more": GREEDY, "long": sampled, "page": GREEDY}
    known = MiniScheduler(model.runner())
    known.add(*(asked(name, PROMPTS[name], params) for name, params in plain.items()))
    known.run(8)
    runner = model.runner()
    chunks = [
        Chunk(name, 0, tuple(PROMPTS[name]), tuple(range(16 * i, 16 * i + 16)), num_rows=1)
        for i, name in enumerate(plain)
    ]
    started = tuple(asked(name, PROMPTS[name], params) for name, params in plain.items())
    launched = [runner.sample(runner.launch(Batch(started=started, chunks=tuple(chunks))))]
    for _ in range(7):
        chunks = [c._replace(start=c.stop, token_ids=(PENDING,)) for c in chunks]
        launched.append(runner.sample(runner.launch(Batch(chunks=tuple(chunks)))))
    outputs = [pending.result() for pending in launched]
    for i, name in enumerate(plain):
        answer = [output.tokens[i].token_ids[0] for output in outputs]
        assert answer == known.answer(name)[:8]


def test_a_request_that_failed_goes_on_failing(llama: Model) -> None:
    """The step behind it may be planned already."""
    runner = llama.runner()
    bad = Chunk("bad", 0, (1, VOCAB + 5), (0,), num_rows=1)
    good = Chunk("good", 0, (1, 2), (1,), num_rows=1)
    started = (asked("bad", [1, VOCAB + 5]), asked("good", [1, 2]))
    first = step(runner, Batch(started=started, chunks=(bad, good)))
    assert first.failed == {"bad": "The request could not be computed (IndexError)."}
    behind = tuple(c._replace(start=2, token_ids=(PENDING,)) for c in (bad, good))
    second = step(runner, Batch(chunks=behind))
    assert second.failed == first.failed
    assert [token.request_id for token in second.tokens] == ["good"]


@pytest.mark.parametrize("chunk", [3, 1000])
def test_log_probabilities_of_the_prompt(llama: Model, chunk: int) -> None:
    runner = llama.runner()
    sampling = SamplingParams(temperature=0.0, prompt_logprobs=3).filled({})
    ids, spans = spread(MediaSpan(0, (0, 6), 5, 6))
    request = asked("r", ids, sampling, spans=spans, items=(item(b"a", 6),))
    scheduler = MiniScheduler(runner)
    scheduler.add(request, asked("more", PROMPTS["more"]))
    scheduler.run(2, chunk)
    embeds = placed(llama, ids, spans, [rows_of(runner, request.items[0])])
    expected = llama.logits(embeds).log_softmax(-1)
    found = dict(scheduler.prompt_logprobs["r"])
    assert list(found) == [i for i in range(1, len(ids)) if not 5 <= i < 11]
    for place, report in found.items():
        row = expected[place - 1]
        assert report.logprob == pytest.approx(float(row[ids[place]]), abs=1e-4)
        assert report.rank == int((row > row[ids[place]]).sum()) + 1
        assert report.top_logprobs == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    assert "more" not in scheduler.prompt_logprobs


@pytest.mark.parametrize("chunk", [3, 1000])
def test_a_prompt_to_embed_is_its_last_hidden_state(llama: Model, chunk: int) -> None:
    runner = llama.runner()
    scheduler = MiniScheduler(runner)
    scheduler.add(
        asked("r", PROMPTS["long"], pooling=PoolingParams()), asked("more", PROMPTS["more"])
    )
    while "r" not in scheduler.pooled:
        scheduler.step({"r": chunk, "more": 5})
    with torch.inference_mode():
        whole = torch.tensor([PROMPTS["long"]])
        expected = llama.theirs.model(whole).last_hidden_state[0, -1]
    torch.testing.assert_close(torch.tensor(scheduler.pooled["r"]), expected, rtol=0, atol=1e-4)
    scheduler.run_only("more", 4)
    check_text(llama, scheduler, "more")


# --- media ------------------------------------------------------------------------------


def rows_of(runner: Runner, of: EngineItem) -> Tensor:
    """An item's embedding, from the encoders' own weights."""
    parts = []
    for name in KINDS[of.kind].encoders:
        encoder: Any = runner._embeddings._encoders[name].inner
        parts.append(encoder.proj(of.features[name]["rows"]))
    return torch.cat(parts).detach()


def spread(*spans: MediaSpan, length: int = 24) -> tuple[list[int], tuple[MediaSpan, ...]]:
    """A prompt whose ids under the spans' masks no embedding matrix has."""
    ids = [i * 17 % VOCAB for i in range(length)]
    for span in spans:
        for i in range(span.length):
            if span.is_embed is None or span.is_embed[i]:
                ids[span.offset + i] = 10**6 + i
    return ids, spans


def placed(model: Model, ids: list[int], spans: Any, rows: Sequence[Tensor]) -> Tensor:
    """The prompt's embeddings, put together token by token."""
    embeds = model.embed([i if i < VOCAB else 0 for i in ids])
    for span in spans:
        row = span.item_slice[0]
        for i in range(span.length):
            if span.is_embed is None or span.is_embed[i]:
                embeds[span.offset + i] = rows[span.item][row]
                row += 1
        assert row == span.item_slice[1]
    return embeds


LAYOUTS: dict[str, tuple[MediaSpan, ...]] = {
    "one span": (MediaSpan(0, (0, 6), 3, 6),),
    "at the beginning": (MediaSpan(0, (0, 6), 0, 6),),
    "at the end": (MediaSpan(0, (0, 6), 18, 6),),
    "text between its rows": (MediaSpan(0, (0, 6), 3, 9, bytes([0, 1, 1, 0, 1, 1, 0, 1, 1])),),
    "in several spans": (
        MediaSpan(0, (4, 6), 2, 2),
        MediaSpan(0, (0, 3), 9, 3),
        MediaSpan(0, (3, 4), 20, 1),
    ),
    "two items interleaved": (
        MediaSpan(0, (0, 6), 4, 11, bytes([1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0])),
        MediaSpan(1, (0, 5), 5, 10, bytes([0, 1, 1, 0, 0, 1, 1, 0, 0, 1])),
    ),
    "side by side": (MediaSpan(1, (0, 5), 4, 5), MediaSpan(0, (0, 6), 9, 6)),
}


@pytest.mark.parametrize("spans", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_embeddings_replace_tokens(
    model: Model, runner: Runner, spans: tuple[MediaSpan, ...], chunk: int
) -> None:
    items = (item(b"a", 6), item(b"b", 5, seed=1))
    ids, spans = spread(*spans)
    request = asked("r", ids, spans=spans, items=items)
    scheduler = MiniScheduler(runner)
    scheduler.add(request, asked("more", PROMPTS["more"]))
    scheduler.run(4, chunk)
    assert scheduler.failed == {}
    embeds = placed(model, ids, spans, [rows_of(runner, of) for of in items])
    check_greedy(model, request, scheduler.answer("r"), embeds)
    check_text(model, scheduler, "more")


@pytest.mark.parametrize("chunk", [3, 1000])
def test_deep_levels_are_added_behind_the_first_layers(llama: Model, chunk: int) -> None:
    runner = llama.runner()
    items = (item(b"a", 6, kind="deep scent"), item(b"b", 6, kind="two scents"))
    ids, spans = spread(MediaSpan(0, (0, 6), 2, 6), MediaSpan(1, (0, 6), 12, 6))
    request = asked("r", ids, spans=spans, items=items)
    scheduler = MiniScheduler(runner)
    scheduler.add(request, asked("more", PROMPTS["more"]))
    scheduler.run(4, chunk)
    assert scheduler.failed == {}
    rows = [rows_of(runner, of) for of in items]
    # Encoder "deep" returns its rows times 2 and 3; "nose" adds nothing deeper.
    handles = []
    for level in range(2):
        extra = torch.zeros(len(ids), HIDDEN)
        extra[2:8] = rows[0] * (level + 2)
        extra[12:15] = rows[1][:3] * (level + 2)

        def hook(module: Any, inputs: Any, output: Any, extra: Tensor = extra) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[0, : len(extra)] += extra
            return output

        handles.append(llama.theirs.model.layers[level].register_forward_hook(hook))
    try:
        embeds = placed(llama, ids, spans, rows)
        check_greedy(llama, request, scheduler.answer("r"), embeds)
    finally:
        for handle in handles:
            handle.remove()
    check_text(llama, scheduler, "more")
    row_bytes = HIDDEN * 4
    assert runner.embed_row_bytes == {
        "scent": row_bytes,
        "deep scent": 3 * row_bytes,
        "two scents": 3 * row_bytes,
    }


def test_tokens_of_a_non_causal_span_see_each_other(llama: Model) -> None:
    runner = llama.runner()
    items = (item(b"a", 6),)
    ids, spans = spread(MediaSpan(0, (0, 6), 5, 6, atomic=True, non_causal=True))
    request = asked("r", ids, spans=spans, items=items)
    scheduler = MiniScheduler(runner)
    scheduler.add(request, asked("more", PROMPTS["more"]))
    scheduler.step({"r": 5, "more": 3})
    scheduler.step({"r": 8, "more": 1})
    scheduler.run(4)
    length = len(scheduler.tokens["r"]) - 1
    sees = torch.ones(length, length, dtype=torch.bool).tril()
    causal = torch.where(sees, 0.0, float("-inf"))
    sees[5:11, 5:11] = True
    mask = torch.where(sees, 0.0, float("-inf"))
    embeds = placed(llama, ids, spans, [rows_of(runner, of) for of in items])
    check_greedy(llama, request, scheduler.answer("r"), embeds, mask)
    whole = torch.cat([embeds, llama.embed(scheduler.answer("r")[:-1])])
    assert (llama.logits(whole, mask) - llama.logits(whole, causal)).abs().max() > 0.1
    check_text(llama, scheduler, "more")


def test_positions_and_delta_are_the_familys(llama: Model) -> None:
    """Positions that skip ahead, then go on from there: as transformers with position ids."""
    runner = llama.runner()
    ids = PROMPTS["more"]
    positions = torch.arange(len(ids)).numpy()[None] * 2
    delta = len(ids) + 4
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("r", ids, positions=positions, position_delta=delta))
    scheduler.run(5, chunk=4)
    answer = scheduler.answer("r")
    index = torch.arange(len(ids), len(ids) + len(answer) - 1) + delta
    at = torch.cat([torch.from_numpy(positions[0]), index])
    with torch.inference_mode():
        whole = torch.tensor([[*ids, *answer[:-1]]])
        logits = llama.theirs(whole, position_ids=at[None]).logits[0, len(ids) - 1 :]
    for row, token in zip(logits, answer, strict=True):
        assert float(row.max() - row[token]) <= TIE


def test_items_of_one_encoder_are_encoded_together(llama: Model) -> None:
    runner = llama.runner()
    scheduler = MiniScheduler(runner)
    for i in range(3):
        ids, spans = spread(MediaSpan(0, (0, 6), 3, 6))
        scheduler.add(asked(f"r{i}", ids, spans=spans, items=(item(bytes([i]), 6, seed=i),)))
    scheduler.run(1)
    encoder: Any = runner._embeddings._encoders["nose"].inner
    assert encoder.calls == [3]


# --- failures ---------------------------------------------------------------------------

NAN = torch.full((6, HIDDEN), float("nan"))
FAULTS: dict[str, tuple[dict[str, Tensor], str]] = {
    "raises": (
        {"raises": torch.ones(1)},
        "nose's forward of its plugin raised RuntimeError",
    ),
    "not a number": ({"output": NAN}, "nose of its plugin returned values that are not finite"),
    "infinite": ({"output": -1 / torch.zeros(6, HIDDEN)}, "not finite"),
    "too few rows": ({"output": torch.zeros(5, HIDDEN)}, "returned 5 rows where the plan says 6"),
    "too narrow": ({"output": torch.zeros(6, 3)}, r"of shape \(6, 3\); it must be \(tokens, 32\)"),
    "no matrix": ({"output": torch.zeros(HIDDEN)}, r"of shape \(32,\)"),
    "levels": ({"deep": torch.zeros(1, 6, HIDDEN)}, "it announces 0"),
}


@pytest.mark.parametrize(("fault", "sentence"), FAULTS.values(), ids=FAULTS)
def test_a_bad_embedding_fails_its_own_request(
    llama: Model, fault: dict[str, Tensor], sentence: str
) -> None:
    runner = llama.runner()
    ids, spans = spread(MediaSpan(0, (0, 6), 3, 6))
    good, bad = item(b"good", 6), item(b"bad", 6, kind="scent", seed=1, **fault)
    requests = {
        name: asked(name, ids, spans=spans, items=(of,)) for name, of in (("g", good), ("b", bad))
    }
    scheduler = MiniScheduler(runner)
    scheduler.add(*requests.values(), asked("more", PROMPTS["more"]))
    scheduler.run(4)
    assert scheduler.failed.keys() == {"b"}
    assert re.search(sentence, scheduler.failed["b"])
    assert "secret" not in scheduler.failed["b"]
    embeds = placed(llama, ids, spans, [rows_of(runner, good)])
    check_greedy(llama, requests["g"], scheduler.answer("g"), embeds)
    check_text(llama, scheduler, "more")
    assert b"good" in runner._embeddings
    assert b"bad" not in runner._embeddings


def test_an_item_that_an_encoder_refuses_is_the_callers_fault(llama: Model) -> None:
    ids, spans = spread(MediaSpan(0, (0, 6), 3, 6))
    refused = item(b"refused", 6, blames=torch.ones(1))
    scheduler = MiniScheduler(llama.runner())
    scheduler.add(asked("r", ids, spans=spans, items=(refused,)))
    scheduler.run(1)
    failure = scheduler.failed["r"]
    assert isinstance(failure, Failure)
    assert failure.error_class == MediaError.__name__
    assert "smells of nothing" in failure


def test_all_requests_that_share_a_failed_item_fail(llama: Model) -> None:
    ids, spans = spread(MediaSpan(0, (0, 6), 3, 6))
    bad = item(b"bad", 6, raises=torch.ones(1))
    scheduler = MiniScheduler(llama.runner())
    scheduler.add(*(asked(name, ids, spans=spans, items=(bad,)) for name in ("a", "b")))
    scheduler.run(1)
    assert scheduler.failed.keys() == {"a", "b"}
    assert len(set(scheduler.failed.values())) == 1


def test_an_embedding_that_is_gone_fails_its_request(llama: Model) -> None:
    runner = llama.runner()
    ids, spans = spread(MediaSpan(0, (0, 6), 3, 6))
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("r", ids, spans=spans, items=(item(b"a", 6),)))
    scheduler.step({"r": 5})
    step(runner, Batch(evict=(b"a",)))
    scheduler.run(1)
    assert "is gone" in scheduler.failed["r"]


def test_a_forward_that_raises_fails_only_its_culprit(llama: Model) -> None:
    runner = llama.runner()
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("more", PROMPTS["more"]))
    scheduler.run(2)
    scheduler.add(asked("bad", [1, VOCAB + 5, 2]), asked("long", PROMPTS["long"]))
    scheduler.run(4, chunk=10)
    assert scheduler.failed == {"bad": "The request could not be computed (IndexError)."}
    check_text(llama, scheduler, "more")
    check_text(llama, scheduler, "long")


def test_logits_that_are_no_numbers_fail_their_request(
    llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = llama.runner()
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("bad", PROMPTS["page"]), asked("more", PROMPTS["more"]))
    logits = runner._decoder.logits

    def broken(hidden: Tensor) -> Tensor:
        result = logits(hidden)
        result[0, 7] = float("nan")
        return result

    with monkeypatch.context() as patched:
        patched.setattr(runner._decoder, "logits", broken)
        scheduler.step({"bad": 100, "more": 100})
    scheduler.run(4)
    assert scheduler.failed == {"bad": "The model's output for this request is not a number."}
    check_text(llama, scheduler, "more")


def test_a_page_with_garbage_harms_nobody(llama: Model) -> None:
    runner = llama.runner()
    runner._kv_cache.fill_(float("nan"))
    scheduler = MiniScheduler(runner)
    scheduler.add(*(asked(name, ids) for name, ids in PROMPTS.items()))
    scheduler.run(4)
    for name in PROMPTS:
        check_text(llama, scheduler, name)


# --- sampling ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 11])
def test_sampling_survives_preemption_chunking_and_company(llama: Model, seed: int | None) -> None:
    sampling = SamplingParams(
        temperature=1.3, top_p=0.95, frequency_penalty=0.5, repetition_penalty=1.1, seed=seed
    ).filled({})
    ids = PROMPTS["long"]
    alone = MiniScheduler(llama.runner())
    alone.add(asked("r", ids, sampling))
    alone.run(12)
    crowd = MiniScheduler(llama.runner())
    crowd.add(asked("one", PROMPTS["one"], sampling), asked("r", ids, sampling))
    crowd.run(4, chunk=5)
    crowd.preempt("r")
    crowd.add(asked("more", PROMPTS["more"], GREEDY))
    crowd.run(12, chunk=7)
    assert crowd.answer("r") == alone.answer("r")
    check_text(llama, crowd, "more")


def test_requests_without_a_seed_differ_from_one_another(llama: Model) -> None:
    sampling = SamplingParams(temperature=2.0).filled({})
    scheduler = MiniScheduler(llama.runner())
    names = ("a", "b", "c")
    scheduler.add(*(asked(name, PROMPTS["more"], sampling) for name in names))
    scheduler.run(10)
    assert len({tuple(scheduler.answer(name)) for name in names}) == 3


# --- life -------------------------------------------------------------------------------


def test_a_closed_runner_makes_room(llama: Model) -> None:
    runner = llama.runner()
    scheduler = MiniScheduler(runner)
    scheduler.add(asked("one", PROMPTS["one"]))
    scheduler.run(2)
    cache, decoder = weakref.ref(runner._kv_cache), weakref.ref(runner._decoder)
    runner.close()
    runner.close()
    assert cache() is None
    assert decoder() is None


def test_what_the_engine_is_told(llama: Model) -> None:
    runner = llama.runner()
    assert runner.max_model_len == 200
    assert runner.num_pages == 64
    assert runner.kv_shape.page_bytes == 4 * 3 * 2 * 2 * 8 * 4
    assert (runner.dtype, runner.device.type) == (torch.float32, "cpu")


def test_encoders_that_no_kind_uses_are_not_built(llama: Model) -> None:
    runner = llama.runner(kinds={"scent": Adapter("nose")})
    assert list(runner._embeddings._encoders) == ["nose"]


# --- CUDA -------------------------------------------------------------------------------


@pytest.mark.gpu
def test_the_same_on_cuda(model: Model) -> None:
    options = {"device": "cuda", "kv_cache_memory_bytes": None, "gpu_memory_utilization": 0.2}
    runner = model.runner(**options, max_num_seqs=8)
    assert runner.num_pages > 1000
    items = (item(b"a", 6), item(b"b", 6, kind="deep scent"))
    ids, spans = spread(MediaSpan(0, (0, 6), 3, 6))
    request = asked("r", ids, spans=spans, items=items)
    scheduler = MiniScheduler(runner)
    scheduler.add(*(asked(name, text) for name, text in PROMPTS.items()), request)
    scheduler.run(6, chunk=5)
    assert scheduler.failed == {}
    for name in PROMPTS:
        check_text(model, scheduler, name)
    encoder: Any = runner._embeddings._encoders["nose"].inner
    rows = encoder.proj(items[0].features["nose"]["rows"].cuda()).detach().cpu()
    embeds = placed(model, ids, spans, [rows])
    check_greedy(model, request, scheduler.answer("r"), embeds)
    before = torch.cuda.memory_allocated()
    runner.close()
    assert torch.cuda.memory_allocated() < before / 10
    again = model.runner(device="cuda", kv_cache_memory_bytes=None, gpu_memory_utilization=0.2)
    again.close()


def test_chunks_come_back_in_order(llama: Model) -> None:
    """Tokens are reported in the order of the chunks that sample."""
    scheduler = MiniScheduler(llama.runner())
    scheduler.add(*(asked(name, ids) for name, ids in PROMPTS.items()))
    output = scheduler.step({"more": 100, "one": 100, "page": 100})
    assert [token.request_id for token in output.tokens] == ["more", "one", "page"]
