"""A plugin that fails fails alone, also after it was found: each mistake costs its own request.

Whatever a plugin's objects raise or return, the caller gets an error of our tree that names the
distribution, the class and the call, and the request beside it gets its answer.
"""

import importlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import make_qwen2

from sensorium import LLM, SamplingParams
from sensorium.errors import EngineError, MediaError, PluginError, SensoriumError

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


@pytest.fixture(scope="module")
def llm(installed: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = make_qwen2(tmp_path_factory.mktemp("model"), seed=5)
    options: dict[str, Any] = {"dtype": "float32", "max_model_len": 128}
    overrides = {"architectures": ["FaultForCausalLM"]}
    with (
        installed("fault-makers", FOLDER, "faults_plugin"),
        LLM(folder, hf_overrides=overrides, **options) as engine,
    ):
        yield engine
        engine.check_integrity()


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
    error = ask(llm, fault)
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
