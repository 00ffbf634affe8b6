"""A plugin that fails fails alone, also after it was found: each mistake costs its own request.

Whatever a plugin's objects raise or return, the caller gets an error of our tree that names the
distribution, the class and the call, and the request beside it gets its answer; so too where the
engine, and with it the encoder, is in a process of its own.
"""

import importlib
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from leftovers import num_mapped
from tiny_checkpoints import make_qwen2
from warm_python import WarmPopen, forked_engines

from sensorium import LLM, SamplingParams
from sensorium.engine.ipc.process_client import ProcessClient
from sensorium.errors import (
    EngineDeadError,
    EngineError,
    MediaError,
    PluginError,
    SensoriumError,
)

FOLDER = Path(__file__).with_name("faults")
GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
sys.path.insert(0, str(FOLDER))
FAULTS: list[str] = importlib.import_module("faults_plugin").FAULTS
sys.path.remove(str(FOLDER))

#: Class → the calls it has.
OWNERS = {
    "Fault": ("split", "parse_part", "digest", "probe", "load"),
    "FaultAdapter": ("options", "plan", "process"),
    "FaultFamily": ("compose",),
    "The encoder nose's": ("forward",),
}
CLASS_OF = {call: cls for cls, calls in OWNERS.items() for call in calls}
#: What reading damaged media raises too; it is told as the media's fault.
READING = ("digest", "probe", "load")
#: What is seen only when the rows are used.
BEHIND_THE_CALL = ("forward too few rows", "forward not a number")
#: What a message says besides who is at fault.
SAYS = {
    "split None": "returned None where a list of items belongs",
    "split wrong indices": "returned an item with the index 7 at place 0",
    "split a number as URL": "a UrlSource of 7; a URL is a text",
    "split text as bytes": "a BytesSource of 'x'; it holds bytes",
    "split a number as uuid": "an item whose uuid is 7; it is a text or None",
    "split fields without names": "embeddings whose fields are no mapping of names",
    "options an array of objects": "the option 'fault' = a ndarray, which is no plain value",
    "digest short": "returned 31 bytes as a digest; it has 32 bytes",
    "digest text": "as a digest",
    "probe numbers": "returned a tuple where a Probe belongs",
    "probe an unnamed fact": "the fact 'speed', which isn't in fact_names",
    "load one derived item twice": "two derived beat items called 'beat'",
    "plan None": "returned None where a MediaPlan belongs",
    "plan no tokens": "num_tokens = 0; an item has one row at least",
    "plan a mask of twos": "a plan whose is_embed has bytes other than 0 and 1",
    "plan a writable mask": "a plan whose is_embed is a bytearray, no bytes",
    "plan an id beyond": "the token id 1000000; the vocabulary has 0 to",
    "process another encoder's": "features for ear; its encoders are nose",
    "process sparse": "a sparse tensor among the features; they are dense tensors",
    "process a gradient": "features that require a gradient",
    "compose no spans": "a prompt without fault 0",
    "compose a span twice": "two spans that replace the same token",
    "compose short positions": "positions of the shape (1, 1)",
    "forward a bare tensor": "returned a Tensor where an EncoderOutput belongs",
    "forward integers": "a tensor of torch.int64 in an EncoderOutput",
    "forward no values": "a tensor without values in an EncoderOutput",
    "forward too few rows": "returned 1 rows where the plan says 2",
    "forward not a number": "returned values that are not finite",
    "forward one too few": "returned 0 outputs for 1 items",
}


#: What is tried again with the engine in a process: all that an encoder does there, and of what
#: happens on this side some of each kind.
APART = [fault for fault in FAULTS if fault.startswith("forward")] + [
    "parse_part None",
    "digest TypeError",
    "load SystemExit",
    "plan an id beyond",
    "process sparse",
    "process Odd",
    "compose None",
]
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 128,
    "kv_cache_memory_bytes": 2**30,
    "hf_overrides": {"architectures": ["FaultForCausalLM"]},
}


@pytest.fixture(scope="module")
def folder(installed: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model's folder; meanwhile the plugin is installed."""
    with installed("fault-makers", FOLDER, "faults_plugin"):
        yield make_qwen2(tmp_path_factory.mktemp("model"), seed=5)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder, engine_process=False, **OPTIONS) as engine:
        yield engine
        engine.check_integrity()


@pytest.fixture(scope="module")
def apart(folder: Path, popen: type[WarmPopen]) -> Iterator[LLM]:
    """The same engine in a process of its own, of which nothing may be left in this one."""
    mapped = num_mapped()
    started = nullcontext() if torch.cuda.is_available() else forked_engines(popen)
    with started, LLM(folder, engine_process=True, **OPTIONS) as engine:
        yield engine
        engine.check_integrity()
    assert num_mapped() == mapped


def pid_of(llm: LLM) -> int | None:
    client = llm._engine._client
    assert isinstance(client, ProcessClient)
    return client.pid


def ask(llm: LLM, fault: str) -> SensoriumError | None:
    """The error of a request with this mistake, beside one that is answered."""
    if fault.startswith("parse_part"):
        part = {"type": "fault", "fault": fault}
        conversations: list[Any] = [
            [{"role": "user", "content": [part]}],
            [{"role": "user", "content": "Words."}],
        ]
        bad, good = llm.chat(conversations, GREEDY, use_tqdm=False, on_error="return")
    else:
        prompts: list[Any] = [
            {
                "prompt": "A <fault>.",
                "multi_modal_data": {"fault": fault},
                "mm_processor_kwargs": {"fault": fault},
            },
            {"prompt": "A <fault>.", "multi_modal_data": {"fault": "none"}},
        ]
        bad, good = llm.generate(prompts, GREEDY, use_tqdm=False, on_error="return")
    assert good.error is None
    assert len(good.outputs[0].token_ids) == 3
    return bad.error


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_is_told_and_costs_its_own_request(llm: LLM, fault: str) -> None:
    check_told(fault, ask(llm, fault))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fault", APART)
def test_the_same_where_the_engine_is_a_process(apart: LLM, fault: str) -> None:
    """The process goes on, and its error arrives here as it was there."""
    pid = pid_of(apart)
    check_told(fault, ask(apart, fault))
    apart.check_integrity()
    assert pid_of(apart) == pid


def check_told(fault: str, error: SensoriumError | None) -> None:
    """Asserts that the error names the fault's distribution, class and call, and no secret."""
    assert isinstance(error, SensoriumError)
    call, _, what = fault.partition(" ")
    message = str(error)
    assert "secret" not in message
    assert not re.search(r"0x[0-9a-f]{4}", message)
    if call in READING and what == "OSError":
        assert isinstance(error, MediaError)
        assert message == "fault 0: it can't be read as fault: damaged, or not supported."
        return
    if fault == "probe another size":
        assert isinstance(error, MediaError)
        assert "its header says size (9,) and decoding gives (2,)" in message
        return
    owner = CLASS_OF[call]
    named = f"{owner} {call}" if owner.endswith("'s") else f"{owner}.{call}"
    if fault in BEHIND_THE_CALL:
        named = "The encoder nose"
    if fault.startswith("plan") and "num_tokens" in message and "returned" not in message:
        assert re.search("a plan has (num_tokens = 2, and|2 token_ids and a mask of 1)", message)
    assert f"{named} of fault-makers" in message, message
    assert SAYS.get(fault, "") in message
    if call in READING and what in ("TypeError", "OutOfMemoryError", "AcceleratorError"):
        assert isinstance(error, MediaError)
        assert "a mistake in the plugin" in message
    elif call != "forward":
        assert isinstance(error, PluginError)
    else:
        assert isinstance(error, (PluginError, EngineError))


def test_a_likely_mistakes_traceback_is_logged_once(
    llm: LLM, caplog: pytest.LogCaptureFixture
) -> None:
    """At warning the first time; of every file of a broken kind it would fill the log."""
    llm._engine._parts.frontend.pipeline._kinds["fault"].door._told.clear()
    with caplog.at_level(logging.WARNING, logger="sensorium"):
        for _ in range(2):
            ask(llm, "load TypeError")
    told = [record for record in caplog.records if "Fault.load of fault-makers" in record.message]
    assert len(told) == 1
    assert told[0].exc_info is not None


@pytest.mark.parametrize("where", ["llm", "apart"])
def test_an_encoder_that_lacks_memory_costs_its_own_request(
    where: str, request: pytest.FixtureRequest
) -> None:
    """That has an answer of its own, for it may be nobody's mistake."""
    engine: LLM = request.getfixturevalue(where)
    pid = pid_of(engine) if where == "apart" else None
    error = ask(engine, "forward OutOfMemoryError")
    assert isinstance(error, EngineError)
    assert "too little memory for the encoder nose and this item of 2 tokens" in str(error)
    assert "secret" not in str(error)
    engine.check_integrity()
    assert where == "llm" or pid_of(engine) == pid


def test_a_device_that_breaks_in_an_encoder_ends_the_process_and_the_next_serves(
    apart: LLM,
) -> None:
    """Nothing can be computed on a broken device: what runs is lost, and what comes is answered."""
    pid = pid_of(apart)
    prompt: Any = {
        "prompt": "A <fault>.",
        "multi_modal_data": {"fault": "forward AcceleratorError"},
    }
    (lost,) = apart.generate([prompt], GREEDY, use_tqdm=False, on_error="return")
    assert isinstance(lost.error, EngineDeadError)
    assert "AcceleratorError" in str(lost.error)
    (answered,) = apart.generate(["Words."], GREEDY, use_tqdm=False)
    assert len(answered.outputs[0].token_ids) == 3
    assert pid_of(apart) != pid
    check_told("forward SystemExit", ask(apart, "forward SystemExit"))
    apart.check_integrity()
