"""How an engine ends: closed at any moment, dropped, forked, with its device."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from endless import ENDLESS, ROOM
from leftovers import our_threads

from sensorium import LLM, AsyncEngine, EngineClosedError, EngineDeadError, SamplingParams
from sensorium.engine.async_engine import last_output
from sensorium.engine.ipc import process
from sensorium.engine.ipc.process_client import ProcessClient

FEW = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
OPTIONS: dict[str, Any] = {"dtype": "float32", **ROOM}
SUPPORT = Path(__file__).parents[1] / "support"
#: A bound on what must come to an end; nothing is expected to take so long.
PATIENCE_S = 100.0


# --- closed -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_process", [False, True])
async def test_a_closed_engine_says_so_everywhere(text_model: Path, engine_process: bool) -> None:
    engine = AsyncEngine(text_model, engine_process=engine_process, **OPTIONS)
    engine.close()
    conversation = [{"role": "user", "content": "x"}]
    asked: list[Callable[[], Awaitable[Any]]] = [
        lambda: last_output(engine.generate("hello", FEW)),
        lambda: last_output(engine.chat(conversation, FEW, chat_template="{{ messages }}")),
        engine.reset_prefix_cache,
        engine.reset_mm_cache,
        engine.check_integrity,
    ]
    for ask in asked:
        with pytest.raises(EngineClosedError, match="closed"):
            await ask()
    engine.close()


async def test_requests_that_are_being_prepared_hear_of_the_closing(text_model: Path) -> None:
    engine = AsyncEngine(text_model, engine_process=False, **OPTIONS)
    gate, pool = threading.Event(), engine._parts.frontend._text_pool
    blocked: list[Future[bool]] = [pool.submit(gate.wait) for _ in range(2)]
    tasks = [asyncio.create_task(last_output(engine.generate("hi", FEW))) for _ in range(3)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(engine.close))
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE_S)
    assert [type(error) for error in found] == [EngineClosedError] * 3
    assert not any(work.done() for work in blocked), "they have waited for their threads"
    gate.set()
    await closing


def test_closing_while_threads_begin_to_generate(text_model: Path) -> None:
    """Each call is answered or refused, whichever side of the closing it comes to."""
    llm = LLM(text_model, engine_process=False, **OPTIONS)
    ended: list[BaseException] = []
    begun = threading.Semaphore(0)

    def ask() -> None:
        try:
            while True:
                begun.release()
                llm.generate("again", FEW, use_tqdm=False)
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(12):
        assert begun.acquire(timeout=PATIENCE_S)
    llm.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [type(error) for error in ended] == [EngineClosedError] * 4


def test_work_that_comes_to_a_driver_as_it_closes_is_refused(text_model: Path) -> None:
    llm = LLM(text_model, engine_process=False, **OPTIONS)
    llm._driver.close()
    with pytest.raises(EngineClosedError, match="closed"):
        llm.generate("late", FEW, use_tqdm=False)
    llm._engine.close()


# --- dropped ------------------------------------------------------------------------------


@pytest.mark.parametrize("engine_process", [False, True])
def test_an_engine_that_nobody_refers_to_is_given_back(
    text_model: Path, engine_process: bool
) -> None:
    threads = our_threads()
    llm = LLM(text_model, engine_process=engine_process, **OPTIONS)
    llm.generate("hello", FEW, use_tqdm=False)
    client = llm._engine._client
    pid = client.pid if isinstance(client, ProcessClient) else None
    del llm, client
    gc.collect()
    assert our_threads() == threads
    assert pid is None or not Path(f"/proc/{pid}").exists()


async def test_so_is_an_async_engine(text_model: Path) -> None:
    threads = our_threads()
    engine = AsyncEngine(text_model, engine_process=False, **OPTIONS)
    await last_output(engine.generate("hello", FEW))
    del engine
    gc.collect()
    assert our_threads() == threads


async def test_an_engine_lives_while_somebody_reads_from_it(text_model: Path) -> None:
    stream = AsyncEngine(text_model, engine_process=False, **OPTIONS).generate("hello", ENDLESS)
    gc.collect()
    first = await anext(stream)
    assert first.outputs[0].token_ids
    await stream.aclose()  # type: ignore[attr-defined]


# --- forked -------------------------------------------------------------------------------

FORKED = """
    import os, sys
    from sensorium import LLM, EngineError, SamplingParams
    few = SamplingParams(temperature=0.0, max_tokens=2)
    llm = LLM({folder!r}, device="cpu", dtype="float32", max_model_len=64,
              engine_process={engine_process})
    reader, writer = os.pipe()
    if not os.fork():
        try:
            llm.generate("hello", few, use_tqdm=False)
        except EngineError as error:
            os.write(writer, str(error).encode())
        llm.close()
        del llm
        os._exit(0)
    os.close(writer)
    print(os.read(reader, 1000).decode())
    os.wait()
    print(len(llm.generate("hello", few, use_tqdm=False)))
    llm.close()
"""


@pytest.mark.parametrize("engine_process", [False, True])
def test_a_forked_child_is_told(
    text_model: Path,
    tmp_path: Path,
    engine_process: bool,
    popen: type[subprocess.Popen[str]],
) -> None:
    script = FORKED.format(folder=str(text_model), engine_process=engine_process)
    file = tmp_path / "forks.py"
    file.write_text(textwrap.dedent(script))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    parent = popen([sys.executable, str(file)], text=True, **pipes)
    stdout, stderr = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 0, stderr
    said, count = stdout.splitlines()
    assert "Make an engine after forking" in said
    assert count == "1", "the child has ended the parent's engine"


# --- with its device, or its process ------------------------------------------------------


def test_a_broken_device_ends_the_process_and_the_next_serves(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "break"
    monkeypatch.setattr(process, "MODULE", "broken_device")
    monkeypatch.setenv("SENSORIUM_TEST_BREAK", str(marker))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    with LLM(text_model, engine_process=True, **OPTIONS) as llm:
        expected = llm.generate("hello", FEW, use_tqdm=False)[0].outputs[0].token_ids
        marker.touch()
        with pytest.raises(EngineDeadError, match="AcceleratorError"):
            llm.generate(["hello", "you", "too"], FEW, use_tqdm=False)
        assert not marker.exists()
        again = llm.generate("hello", FEW, use_tqdm=False)[0].outputs[0].token_ids
        assert again == expected
        llm.check_integrity()


async def test_requests_of_the_time_between_two_processes_are_served(text_model: Path) -> None:
    async with AsyncEngine(text_model, engine_process=True, **OPTIONS) as engine:
        client = engine._client
        assert isinstance(client, ProcessClient)
        lost = engine.generate("hello", ENDLESS)
        await anext(lost)
        assert client.is_healthy
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match="SIGKILL"):
            async for _ in lost:
                pass
        assert not client.is_healthy
        between = await asyncio.gather(*(last_output(engine.generate(p, FEW)) for p in "ab"))
        assert [len(output.outputs[0].token_ids) for output in between] == [2, 2]
        assert client.is_healthy
