"""``LLM``: its life, its threads, its errors."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from endless import ENDLESS, PATIENCE_S, ROOM, interrupt_while_generating, wait_for_tokens
from leftovers import our_threads

from sensorium import (
    LLM,
    ConfigError,
    EngineClosedError,
    EngineError,
    LimitError,
    RequestError,
    SamplingParams,
    UnsupportedError,
)

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


def texts(llm: LLM, prompts: Any, params: Any = GREEDY) -> list[str]:
    return [o.outputs[0].text for o in llm.generate(prompts, params, use_tqdm=False)]


# --- life -----------------------------------------------------------------------------


def test_close_ends_threads_and_gives_memory_back(text_model: Path) -> None:
    before = our_threads()
    with LLM(text_model, dtype="float32", max_model_len=64, engine_process=False) as llm:
        core = weakref.ref(llm._engine._client._core)  # type: ignore[attr-defined]
        assert texts(llm, "hello")
        assert len(our_threads()) > len(before)
    assert our_threads() == before
    del llm
    gc.collect()
    assert core() is None, "something still holds the engine's weights and pages"


def test_a_second_engine_in_the_same_process(llm: LLM, text_model: Path) -> None:
    with LLM(text_model, dtype="float32", max_model_len=64) as second:
        assert texts(second, "the same prompt") == texts(llm, "the same prompt")


def test_using_a_closed_engine_is_an_error(text_model: Path) -> None:
    llm = LLM(text_model, dtype="float32", max_model_len=64)
    llm.close()
    llm.close()
    with pytest.raises(EngineClosedError, match="closed"):
        llm.generate("hello", use_tqdm=False)


@pytest.mark.parametrize("engine_process", [False, True])
def test_close_ends_running_requests_with_an_error(text_model: Path, engine_process: bool) -> None:
    llm = LLM(text_model, dtype="float32", engine_process=engine_process, **ROOM)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            llm.generate(["a"] * 64, ENDLESS, use_tqdm=False)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for_tokens(llm)
    llm.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert isinstance(errors[0], EngineClosedError)
    with pytest.raises(EngineClosedError):
        llm.generate("late", GREEDY, use_tqdm=False)


# --- where it works from --------------------------------------------------------------


def test_inside_a_running_event_loop(llm: LLM) -> None:
    async def cell() -> list[str]:
        return texts(llm, "from a notebook")

    assert asyncio.run(cell()) == texts(llm, "from a notebook")


def test_from_several_threads(llm: LLM) -> None:
    prompts = [f"prompt number {i}" for i in range(6)]
    alone = [texts(llm, prompt)[0] for prompt in prompts]
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, texts(llm, prompts[i])[0]))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(6)] == alone


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_aborts_and_leaves_the_engine_usable(llm: LLM) -> None:
    interrupter = interrupt_while_generating(llm)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["interrupted"] * 64, ENDLESS, use_tqdm=False)
    interrupter.join()
    assert len(texts(llm, "afterwards")) == 1
    llm.check_integrity()
    assert llm.reset_prefix_cache() is True, "an aborted request still holds pages"


# --- arguments ------------------------------------------------------------------------


def test_outputs_come_in_the_prompts_order(llm: LLM) -> None:
    prompts: list[Any] = ["one", [5, 6, 7], {"prompt": "two"}, {"prompt_token_ids": [8, 9]}]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert [o.prompt for o in outputs] == ["one", None, "two", None]
    assert outputs[1].prompt_token_ids == (5, 6, 7)
    assert all(o.finished and len(o.outputs[0].token_ids) == 8 for o in outputs)


def test_a_list_of_params_goes_with_the_prompts(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in (1, 5)]
    outputs = llm.generate(["a", "b"], params, use_tqdm=False)
    assert [len(o.outputs[0].token_ids) for o in outputs] == [1, 5]
    assert [o.outputs[0].finish_reason for o in outputs] == ["length", "length"]
    with pytest.raises(RequestError, match="2 prompts and 1"):
        llm.generate(["a", "b"], params[:1], use_tqdm=False)


def test_n_answers_are_independent_and_repeatable(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=7, max_tokens=6, ignore_eos=True)
    first, second = (llm.generate("many", params, use_tqdm=False)[0] for _ in range(2))
    assert [o.index for o in first.outputs] == [0, 1, 2]
    assert first.outputs == second.outputs
    assert len({o.token_ids for o in first.outputs}) == 3


def test_progress_bar_counts_prompts(llm: LLM) -> None:
    seen: dict[str, Any] = {"done": 0}

    class Bar:
        def __init__(self, **options: Any) -> None:
            seen.update(options)

        def update(self, count: int) -> None:
            seen["done"] += count

        def close(self) -> None:
            seen["closed"] = True

    llm.generate(["a", "b", "c"], GREEDY, use_tqdm=Bar)
    assert (seen["total"], seen["done"], seen["closed"]) == (3, 3, True)


def test_an_answer_may_fill_the_context(text_model: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    with LLM(text_model, dtype="float32", max_model_len=512) as short:
        output = short.generate([[5] * 495], params, use_tqdm=False)[0]
    assert len(output.outputs[0].token_ids) == 512 - 495
    assert output.outputs[0].finish_reason == "length"


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "error", "sentence"),
    [
        ({"promt": "x"}, RequestError, "promt"),
        ({}, RequestError, "exactly one"),
        ({"prompt": 3}, RequestError, "must be text"),
        ([1, "two"], RequestError, "'two'|a str"),
        ([10**9], RequestError, "1000000000"),
        ([-1], RequestError, "-1"),
        ([], RequestError, "."),
        ([[]], RequestError, "empty"),
        ([5] * 65_536, LimitError, "65536"),
        ({"prompt": "x", "multi_modal_data": {"nosuch": 1}}, Exception, "nosuch"),
        ({"prompt": "x", "mm_processor_kwargs": {"nosuch": 1}}, RequestError, "nosuch"),
        ({"prompt": "x", "cache_salt": 5}, RequestError, "cache_salt"),
    ],
)
def test_bad_prompts_get_a_sentence_and_nothing_else_is_lost(
    llm: LLM, prompt: Any, error: type[Exception], sentence: str
) -> None:
    if prompt == []:
        assert llm.generate(prompt, use_tqdm=False) == []
        return
    with pytest.raises(error, match=sentence):
        llm.generate([prompt] if prompt != [[]] else prompt, GREEDY, use_tqdm=False)
    assert len(texts(llm, "still here")) == 1


def test_on_error_return_keeps_the_others(llm: LLM) -> None:
    outputs = llm.generate(["good", [10**9], "good"], GREEDY, use_tqdm=False, on_error="return")
    assert isinstance(outputs[1].error, RequestError)
    assert outputs[1].outputs == ()
    assert outputs[0].outputs[0].text == outputs[2].outputs[0].text
    assert outputs[0].error is None


def test_a_failing_step_fails_its_own_requests_only(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = llm._engine._client._core.executor  # type: ignore[attr-defined]
    monkeypatch.setattr(runner, "launch", lambda batch: 1 / 0)
    with pytest.raises(EngineError, match="step"):
        texts(llm, "unlucky")
    monkeypatch.undo()
    assert len(texts(llm, "lucky")) == 1
    llm.check_integrity()


def test_a_dead_engine_says_so(text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(text_model, dtype="float32", max_model_len=64, engine_process=False) as llm:
        scheduler = llm._engine._client._core.scheduler  # type: ignore[attr-defined]
        monkeypatch.setattr(type(scheduler), "schedule", lambda self: 1 / 0)
        with pytest.raises(EngineError, match="died"):
            texts(llm, "first")
        with pytest.raises(EngineError, match="died"):
            texts(llm, "second")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_model_length": 5}, "max_model_len"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size"),
        ({"task": "rank"}, "rank"),
        ({"dtype": "int8"}, "int8"),
        ({"allowed_media_domains": "a.org"}, "allowed_media_domains .* must be a list"),
        ({"allowed_media_domains": ["https://a.org"]}, "allowed_media_domains"),
        ({"allow_private_media_hosts": "a.org"}, "allow_private_media_hosts"),
        ({"allow_private_media_hosts": ["10.0.0.0/99"]}, "allow_private_media_hosts"),
        ({"allowed_local_media_path": "/no/such/folder"}, "allowed_local_media_path"),
        ({"allowed_local_media_path": "relative"}, "allowed_local_media_path"),
        ({"media_url_allow_redirects": "no"}, "media_url_allow_redirects"),
        ({"media_memory_gb": 0}, "media_memory_gb"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"media_io_kwargs": {"nosuch": {}}}, "nosuch"),
        ({"limit_mm_per_prompt": {"nosuch": 1}}, "nosuch"),
        ({"plugin_options": {"nosuch": {}}}, "nosuch"),
        ({"max_model_len": 10**9}, "max_model_len"),
    ],
)
def test_options_that_cannot_work(text_model: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence) as caught:
        LLM(text_model, **options)
    assert (
        isinstance(caught.value, (ConfigError, LookupError))
        or "Plugin" in type(caught.value).__name__
    )


def test_unbuilt_sampling_options_are_refused_by_name() -> None:
    for name in ("guided_decoding", "guided_json"):
        with pytest.raises(UnsupportedError, match=name):
            SamplingParams(**{name: 1})
