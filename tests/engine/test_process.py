"""An engine in a process of its own: the same answers, nothing left behind, life after death."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endless import ENDLESS, PATIENCE_S, ROOM, interrupt_while_generating, wait_for_tokens
from family_helpers import random_image
from leftovers import num_mapped, our_threads
from tiny_checkpoints import make_qwen25vl

from sensorium import (
    LLM,
    AsyncEngine,
    CacheMissError,
    ConfigError,
    EngineDeadError,
    LimitError,
    PluginError,
    SamplingParams,
)
from sensorium.engine import assembly
from sensorium.engine.async_engine import last_output
from sensorium.engine.ipc import connection, process, process_client
from sensorium.engine.ipc.process_client import ProcessClient

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=8, ignore_eos=True)
#: Where there is a GPU, several engines share it.
SHARE: dict[str, Any] = {"kv_cache_memory_bytes": 2**30}
OPTIONS: dict[str, Any] = {"dtype": "float32", **ROOM, **SHARE}


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen25vl(tmp_path_factory.mktemp("qwen25vl"), seed=4)


@pytest.fixture(scope="module")
def llm(image_model: Path) -> Iterator[LLM]:
    """An engine in a process, whose books must balance when its tests have ended."""
    with LLM(image_model, engine_process=True, **OPTIONS) as engine:
        yield engine
        engine.check_integrity()


@pytest.fixture(scope="module")
def thread_llm(image_model: Path) -> Iterator[LLM]:
    """The same engine in a thread."""
    with LLM(image_model, engine_process=False, **OPTIONS) as engine:
        yield engine


def client_of(llm: LLM) -> ProcessClient:
    client = llm._engine._client
    assert isinstance(client, ProcessClient)
    return client


def pid_of(llm: LLM) -> int:
    pid = client_of(llm).pid
    assert pid is not None
    return pid


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} has not come to pass"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def picture_prompt(seed: int, uuid: str | None = None) -> dict[str, Any]:
    prompt: dict[str, Any] = {
        "prompt": f"so <image> number {seed}",
        "multi_modal_data": {"image": [random_image(84, 112, seed)]},
    }
    return prompt if uuid is None else {**prompt, "multi_modal_uuids": {"image": [uuid]}}


def answers(llm: LLM, prompts: Any, params: Any = GREEDY) -> list[Any]:
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return [[(a.text, a.token_ids) for a in o.outputs] for o in outputs]


# --- the same as in a thread --------------------------------------------------------------


def test_the_answers_are_those_of_a_thread(llm: LLM, thread_llm: LLM) -> None:
    prompts = [*(picture_prompt(seed) for seed in range(4)), "text alone", [5, 6, 7]]
    assert answers(llm, prompts) == answers(thread_llm, prompts)
    params = SamplingParams(n=3, seed=5, temperature=1.0, max_tokens=6, stop=["zq"])
    mixed = [picture_prompt(9), "more text"]
    assert answers(llm, mixed, params) == answers(thread_llm, mixed, params)


def test_features_that_another_thread_copies(
    llm: LLM, thread_llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_INLINE_BYTES", 0)
    prompts = [picture_prompt(seed) for seed in range(40, 46)]
    assert answers(llm, prompts) == answers(thread_llm, prompts)


def test_logprobs_cross(llm: LLM, thread_llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, logprobs=2, max_tokens=4, ignore_eos=True)
    (here,), (there,) = (e.generate("so", params, use_tqdm=False) for e in (llm, thread_llm))
    ours, theirs = here.outputs[0].logprobs, there.outputs[0].logprobs
    assert ours is not None
    assert theirs is not None
    assert [list(entry) for entry in ours] == [list(entry) for entry in theirs]
    assert here.outputs[0].cumulative_logprob == pytest.approx(there.outputs[0].cumulative_logprob)


def test_media_were_counted_and_found_again(image_model: Path, llm: LLM) -> None:
    llm.reset_mm_cache()
    assert llm.reset_prefix_cache() is True
    (first,) = llm.generate(picture_prompt(20), GREEDY, use_tqdm=False)
    (second,) = llm.generate(picture_prompt(20), GREEDY, use_tqdm=False)
    assert (first.metrics.num_encoded_items, first.metrics.num_cached_tokens) == (1, 0)
    assert second.metrics.num_cached_tokens > 0
    m = first.metrics
    assert m.first_scheduled_s is not None
    assert m.first_token_s is not None
    assert m.arrival_s <= m.first_scheduled_s <= m.first_token_s


def test_errors_are_of_the_same_class(llm: LLM) -> None:
    with pytest.raises(LimitError, match="65536"):
        llm.generate([5] * 65_536, GREEDY, use_tqdm=False)
    with pytest.raises(CacheMissError, match="cache miss for image at index 0, uuid nobody"):
        llm.generate(
            {"prompt": "<image>", "multi_modal_data": {"image": [None]},
             "multi_modal_uuids": {"image": ["nobody"]}},
            GREEDY,
            use_tqdm=False,
        )  # fmt: skip
    assert len(answers(llm, "still here")) == 1


def test_segments_are_released_and_used_again(llm: LLM) -> None:
    segments = client_of(llm)._connection.segments
    for _ in range(3):
        answers(llm, [picture_prompt(seed) for seed in range(30, 36)])
        wait_until(lambda: segments.num_bytes[0] == 0, "releasing segments")
    assert 0 < segments._num_made <= 2 * 6, "segments aren't used again"


async def test_leaving_early_aborts(image_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AsyncEngine(str(image_model), engine_process=True, **OPTIONS) as engine:
        stream = engine.generate(picture_prompt(1), ENDLESS)
        async for output in stream:
            if len(output.outputs[0].token_ids) >= 3:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        assert await engine.reset_prefix_cache() is True, "the aborted request still holds pages"

        # Cancelled while its features are still being copied: the abort must not overtake it.
        monkeypatch.setattr(connection, "MAX_INLINE_BYTES", 0)
        client, gate = engine._client, threading.Event()
        assert isinstance(client, ProcessClient)
        client._packer.submit(gate.wait)
        tasks = [
            asyncio.create_task(last_output(engine.generate(picture_prompt(seed), ENDLESS)))
            for seed in (2, 3)
        ]
        while len(client._connection._packing) < len(tasks):
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gate.set()
        client._packer.submit(lambda: None).result()  # both were sent, and their aborts behind them
        assert await engine.reset_prefix_cache() is True, "a cancelled request still holds pages"
        await engine.check_integrity()
        assert (await engine.stats()).num_ended == {"abort": 3}


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_aborts_and_leaves_the_engine_usable(llm: LLM) -> None:
    pid = pid_of(llm)
    interrupter = interrupt_while_generating(llm)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["interrupted"] * 64, ENDLESS, use_tqdm=False)
    interrupter.join()
    os.kill(pid, signal.SIGINT)  # as a terminal would send it to a whole group
    assert len(answers(llm, "afterwards")) == 1
    assert pid_of(llm) == pid
    assert llm.reset_prefix_cache() is True, "an aborted request still holds pages"


def test_the_process_is_in_a_group_of_its_own(llm: LLM) -> None:
    assert os.getpgid(pid_of(llm)) != os.getpgid(0), "Ctrl-C in a terminal would reach it"


@pytest.mark.gpu
def test_the_parent_never_touches_the_device(text_model: Path) -> None:
    script = f"""
        import torch
        from sensorium import LLM
        with LLM({str(text_model)!r}, engine_process=True, max_model_len=64,
                 kv_cache_memory_bytes=2**30) as llm:
            llm.generate("hello", use_tqdm=False)
        assert not torch.cuda.is_initialized()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# --- starting -----------------------------------------------------------------------------


def test_an_error_while_loading_is_the_same_error(text_model: Path) -> None:
    found, threads = [], our_threads()
    for apart in (False, True):
        with pytest.raises(ConfigError, match="max_model_len") as caught:
            LLM(text_model, dtype="float32", max_model_len=10**9, engine_process=apart)
        found.append(str(caught.value))
    assert found[0] == found[1]
    assert our_threads() == threads


def test_other_plugins_in_the_process_are_refused(
    text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = assembly.plugins_of

    def one_more(registry: Any) -> Any:
        first, *rest = original(registry)
        return (replace(first, version="0.0.other"), *rest)

    monkeypatch.setattr(assembly, "plugins_of", one_more)
    with pytest.raises(PluginError, match=r"Here: .* 0\.0\.other .* There: sensorium"):
        LLM(text_model, engine_process=True, **OPTIONS)


def test_a_process_that_dies_while_starting_is_an_error(
    text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MODULE", "sensorium.errors")  # it ends at once
    with pytest.raises(EngineDeadError, match=r"died while starting \(exit status 0\)"):
        LLM(text_model, engine_process=True, **OPTIONS)
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EngineDeadError, match=r"sys\.executable"):
        LLM(text_model, engine_process=True, **OPTIONS)


def test_an_option_that_cannot_cross_is_named(text_model: Path) -> None:
    with pytest.raises(ConfigError, match="can't be sent to the engine's process"):
        LLM(text_model, engine_process=True, hf_overrides={"x": lambda: 1}, **OPTIONS)


def test_log_records_come_to_this_process(
    text_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, logger="sensorium"),
        LLM(text_model, engine_process=True, **OPTIONS),
    ):
        lines = [r.getMessage() for r in caplog.records if r.name == "sensorium.runner"]
    assert any("attention" in line for line in lines)


SCRIPT = """
    import os, sys
    from sensorium import LLM, SamplingParams
    llm = LLM({folder!r}, engine_process=True, dtype="float32", max_model_len=64,
              kv_cache_memory_bytes=2**30)
    params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    print(os.getpid(), llm._engine._client.pid, flush=True)
    print(len(llm.generate("hello", params, use_tqdm=False)[0].outputs[0].token_ids), flush=True)
    {then}
"""


def script(folder: Path, tmp_path: Path, then: str) -> Path:
    """A script without a main guard."""
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(SCRIPT).format(folder=str(folder), then=then))
    return file


def test_a_script_without_a_main_guard(text_model: Path, tmp_path: Path) -> None:
    file = script(text_model, tmp_path, "llm.close()")
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    pids, count = done.stdout.splitlines()
    assert count == "4"
    assert is_gone(int(pids.split()[1]))


@pytest.mark.parametrize("then", ["os.kill(os.getpid(), 9)", "sys.exit(0)"])
def test_the_process_ends_with_its_parent(
    text_model: Path, tmp_path: Path, then: str, popen: type[subprocess.Popen[str]]
) -> None:
    command = [sys.executable, str(script(text_model, tmp_path, then))]
    parent = popen(command, stdout=subprocess.PIPE, text=True)
    stdout, _ = parent.communicate(timeout=PATIENCE_S)
    pid = int(stdout.split()[1])
    wait_until(lambda: is_gone(pid), "the engine's end")


# --- death --------------------------------------------------------------------------------


@pytest.fixture
def mortal(image_model: Path) -> Iterator[LLM]:
    with LLM(image_model, engine_process=True, max_num_seqs=2, **OPTIONS) as engine:
        yield engine


def test_killed_mid_step_all_that_wait_fail_at_once_and_the_next_are_served(
    mortal: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_restart = threading.Event()

    def restarted() -> process.EngineProcess:
        may_restart.wait(PATIENCE_S)
        return process.EngineProcess()

    monkeypatch.setattr(process_client, "EngineProcess", restarted)
    expected = answers(mortal, [picture_prompt(1), "text"])
    first_pid = pid_of(mortal)
    errors: list[BaseException] = []

    def ask(prompt: Any) -> None:
        try:
            mortal.generate(prompt, ENDLESS, use_tqdm=False)
        except BaseException as error:
            errors.append(error)

    prompts = ["running", "running too", "waiting", picture_prompt(3)]
    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    wait_for_tokens(mortal)
    wait_until(lambda: mortal._engine.num_unfinished_requests == len(prompts), "handing over")
    assert not errors
    os.kill(first_pid, signal.SIGKILL)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads), "they wait for the restart"
    assert not mortal._engine.is_healthy
    told = mortal.stats()
    assert not told.is_healthy
    assert told.num_generated_tokens > 0, "what it last said is lost"
    may_restart.set()
    assert [type(error) for error in errors] == [EngineDeadError] * len(prompts)
    assert "died (signal 9, SIGKILL)" in str(errors[0])
    assert answers(mortal, [picture_prompt(1), "text"]) == expected
    assert pid_of(mortal) != first_pid
    assert mortal._engine.is_healthy
    assert mortal.stats().num_restarts == 1
    mortal.check_integrity()


def test_an_embedding_known_by_name_alone_is_gone_with_the_process(image_model: Path) -> None:
    """The frontend keeps the plan; the embedding, and the pages made from it, were the engine's."""
    with LLM(image_model, engine_process=True, mm_processor_cache_gb=1e-9, **OPTIONS) as engine:
        by_name = {**picture_prompt(7, "seven"), "multi_modal_data": {"image": [None]}}
        expected = answers(engine, picture_prompt(7, "seven"))
        assert answers(engine, by_name) == expected, "only the plan is left, and it is enough"
        pid = pid_of(engine)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: client_of(engine).pid not in (None, pid), "starting again")
        with pytest.raises(CacheMissError, match="cache miss for image at index 0, uuid seven"):
            answers(engine, by_name)
        assert answers(engine, picture_prompt(7, "seven")) == expected


def test_a_process_that_never_starts_again_fails_its_requests(
    mortal: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(answers(mortal, "once")) == 1
    monkeypatch.setattr(process, "MODULE", "sensorium.errors")
    os.kill(pid_of(mortal), signal.SIGKILL)
    wait_until(lambda: client_of(mortal)._has_stopped(), "giving up")
    for _ in range(2):
        with pytest.raises(EngineDeadError, match="died while starting"):
            answers(mortal, "again")


# --- the end ------------------------------------------------------------------------------


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return found


def test_close_leaves_nothing_behind(image_model: Path) -> None:
    threads, before = our_threads(), descriptors()
    mapped = num_mapped()
    for _ in range(2):
        with LLM(image_model, engine_process=True, **OPTIONS) as engine:
            pid = pid_of(engine)
            answers(engine, [picture_prompt(seed) for seed in range(3)])
            assert num_mapped() > mapped
        assert is_gone(pid)
        del engine
    assert our_threads() == threads
    assert descriptors() == before
    assert num_mapped() == mapped


def test_two_at_once(llm: LLM, image_model: Path) -> None:
    with LLM(image_model, engine_process=True, **OPTIONS) as second:
        assert answers(second, picture_prompt(1)) == answers(llm, picture_prompt(1))
        assert pid_of(second) != pid_of(llm)
    assert len(answers(llm, "the first goes on")) == 1
