"""Answers have the form that was asked for, beside whatever else is asked and computed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from drawn_schemas import drawn
from jsonschema import Draft202012Validator

from sensorium import LLM, RequestOutput, SamplingParams, StructuredOutputs
from sensorium.errors import LimitError, RequestError, SensoriumError, UnsupportedError
from sensorium.runner import Runner
from sensorium.types import Batch

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["fox", "dog", "bird"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
PROMPT = "The quick brown"


@pytest.fixture(scope="module")
def small_steps(text_model: Path) -> Iterator[LLM]:
    """So few pages and tokens that requests are cut into pieces and lose their pages."""
    with LLM(
        text_model,
        dtype="float32",
        engine_process=False,
        max_model_len=256,
        max_num_batched_tokens=24,
        kv_cache_memory_bytes=2**18,
    ) as engine:
        yield engine
        engine.check_integrity()


def asked(form: StructuredOutputs | None, **options: Any) -> SamplingParams:
    return SamplingParams(
        structured_outputs=form, **{"temperature": 1.0, "seed": 5, "max_tokens": 100} | options
    )


def text_of(output: RequestOutput, answer: int = 0) -> str:
    return output.outputs[answer].text


def check(outputs: Sequence[RequestOutput], schemas: Sequence[dict[str, Any]]) -> None:
    """All answers that are finished are of their schemas; that some are, random weights allow.

    How many end in time is asked of real weights (``test_structured_proof.py``): random ones go on
    with a number's digits or a string for as long as the schema lets them.
    """
    finished = 0
    for output, schema in zip(outputs, schemas, strict=True):
        if output.outputs[0].finish_reason == "length":
            continue
        finished += 1
        assert output.outputs[0].finish_reason == "stop"
        Draft202012Validator(schema).validate(json.loads(text_of(output)))
    assert finished >= 0.25 * len(schemas)


def test_schemas_among_requests_without(llm: LLM) -> None:
    schemas = drawn(30)
    params: list[SamplingParams] = []
    for seed, schema in enumerate(schemas):
        params += [asked(StructuredOutputs(json=schema), seed=seed), asked(None, max_tokens=9)]
    outputs = llm.generate([PROMPT] * len(params), params, use_tqdm=False)
    check(outputs[::2], schemas)
    [alone] = llm.generate(PROMPT, asked(None, max_tokens=9), use_tqdm=False)
    assert {text_of(output) for output in outputs[1::2]} == {text_of(alone)}
    for i in range(0, 12, 2):
        [alone] = llm.generate(PROMPT, params[i], use_tqdm=False)
        assert alone.outputs[0].token_ids == outputs[i].outputs[0].token_ids


def test_every_form(llm: LLM) -> None:
    forms = {
        r"(yes|no|perhaps)": StructuredOutputs(choice=["yes", "no", "perhaps"]),
        r"[a-f]{3}-\d{2}": StructuredOutputs(regex=r"[a-f]{3}-[0-9]{2}"),
        r"\d\+\d": StructuredOutputs(grammar='start: D "+" D\nD: /[0-9]/'),
        r'\{"a":[01],"b":null\}': StructuredOutputs(
            json={
                "properties": {"a": {"enum": [0, 1]}, "b": {"type": "null"}},
                "required": ["a", "b"],
                "type": "object",
            },
            disable_any_whitespace=True,
            disable_additional_properties=True,
        ),
    }
    for seed in range(3):
        params = [asked(form, seed=seed) for form in forms.values()]
        outputs = llm.generate([PROMPT] * len(params), params, use_tqdm=False)
        for pattern, output in zip(forms, outputs, strict=True):
            assert re.fullmatch(pattern, text_of(output)), (pattern, text_of(output))
            assert output.outputs[0].finish_reason == "stop"
            assert output.outputs[0].stop_reason is None


def test_any_object(llm: LLM) -> None:
    form = StructuredOutputs(json_object=True)
    outputs = llm.generate(
        [PROMPT] * 6, [asked(form, seed=s, max_tokens=300) for s in range(6)], use_tqdm=False
    )
    finished = [o for o in outputs if o.outputs[0].finish_reason == "stop"]
    assert all(isinstance(json.loads(text_of(output)), dict) for output in finished)
    assert all(text_of(output).startswith("{") for output in outputs)


def test_requests_that_lose_their_pages(llm: LLM, small_steps: LLM) -> None:
    params = [
        asked(StructuredOutputs(json=PERSON), seed=seed, max_tokens=160) for seed in range(20)
    ]
    outputs = small_steps.generate([PROMPT * 3] * 20, params, use_tqdm=False)
    check(outputs, [PERSON] * 20)
    assert sum(output.metrics.num_preemptions for output in outputs) > 0
    roomy = llm.generate([PROMPT * 3] * 20, params, use_tqdm=False)
    assert [text_of(a) for a in outputs] == [text_of(b) for b in roomy]


def test_several_answers(llm: LLM) -> None:
    [output] = llm.generate(
        PROMPT, asked(StructuredOutputs(json=PERSON), n=4, max_tokens=160), use_tqdm=False
    )
    texts = [answer.text for answer in output.outputs]
    assert len(set(texts)) > 1
    for text in texts:
        Draft202012Validator(PERSON).validate(json.loads(text))


def test_log_probabilities_come_for_every_token(llm: LLM) -> None:
    params = asked(StructuredOutputs(json=PERSON), logprobs=2, max_tokens=160)
    [output] = llm.generate(PROMPT, params, use_tqdm=False)
    answer = output.outputs[0]
    assert json.loads(answer.text)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == len(answer.token_ids)
    for token_id, found in zip(answer.token_ids, answer.logprobs, strict=True):
        assert token_id in found
    [without] = llm.generate(PROMPT, asked(StructuredOutputs(json=PERSON), max_tokens=160))
    assert without.outputs[0].token_ids == answer.token_ids


def test_stop_strings_and_ids_end_it_early(llm: LLM) -> None:
    form = StructuredOutputs(regex="(fox ){5}end")
    [output] = llm.generate(PROMPT, asked(form, stop="ox f"), use_tqdm=False)
    assert text_of(output) == "f"
    assert output.outputs[0].stop_reason == "ox f"
    [end] = set(llm.get_tokenizer().encode("!"))
    [output] = llm.generate(
        PROMPT, asked(StructuredOutputs(regex="[a-c]!{9}"), stop_token_ids=[end]), use_tqdm=False
    )
    assert output.outputs[0].stop_reason == end
    assert len(output.outputs[0].token_ids) == 2


def test_a_complete_answer_ends_whatever_else_is_asked(llm: LLM) -> None:
    form = StructuredOutputs(regex="[a-c]{4}")
    for options in ({"ignore_eos": True}, {"min_tokens": 50}, {"ignore_eos": True, "n": 2}):
        [output] = llm.generate(PROMPT, asked(form, **options), use_tqdm=False)
        for answer in output.outputs:
            assert re.fullmatch("[a-c]{4}", answer.text)
            assert answer.finish_reason == "stop"


def test_min_tokens_keeps_an_answer_going_that_could_end(llm: LLM) -> None:
    form = StructuredOutputs(regex="[a-z ]{1,60}")
    for options in ({"min_tokens": 12}, {"ignore_eos": True, "max_tokens": 12}):
        [output] = llm.generate(PROMPT, asked(form, **options), use_tqdm=False)
        assert len(output.outputs[0].token_ids) >= 12
        assert re.fullmatch("[a-z ]{1,60}", text_of(output))


def test_what_else_may_be_chosen_is_narrowed_further(llm: LLM) -> None:
    form = StructuredOutputs(regex="[a-c]{6}")
    [b] = llm.get_tokenizer().encode("b")
    [output] = llm.generate(PROMPT, asked(form, allowed_token_ids=[b]), use_tqdm=False)
    assert text_of(output) == "bbbbbb"
    [output] = llm.generate(PROMPT, asked(form, logit_bias={b: 100.0}), use_tqdm=False)
    assert text_of(output) == "bbbbbb"
    [output] = llm.generate(PROMPT, asked(form, bad_words=["b", "c"]), use_tqdm=False)
    assert text_of(output) == "aaaaaa"
    [other] = llm.get_tokenizer().encode("x")
    with pytest.raises(SensoriumError, match="forbids every token"):
        llm.generate(PROMPT, asked(form, allowed_token_ids=[other]), use_tqdm=False)


def test_no_token_is_asked_for(llm: LLM) -> None:
    [output] = llm.generate(PROMPT, asked(StructuredOutputs(json=PERSON), max_tokens=0))
    assert text_of(output) == ""
    assert output.outputs[0].finish_reason == "length"


def test_an_answer_is_cut_at_max_tokens(llm: LLM) -> None:
    form = StructuredOutputs(regex="the quick brown fox jumps over the lazy dog")
    for most in (1, 2, 5):
        [output] = llm.generate(PROMPT, asked(form, max_tokens=most), use_tqdm=False)
        assert len(output.outputs[0].token_ids) == most
        assert output.outputs[0].finish_reason == "length"
        assert "the quick brown fox jumps over the lazy dog".startswith(text_of(output))


def test_forced_tokens_are_computed_together(
    text_model: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form is the same either way; a forced run costs one step."""
    launched: list[Batch] = []
    launch = Runner.launch

    def counted(self: Runner, batch: Batch) -> Any:
        launched.append(batch)
        return launch(self, batch)

    monkeypatch.setattr(Runner, "launch", counted)
    form = StructuredOutputs(regex="the quick brown fox [ab] jumps over the lazy dog")
    params = [asked(form, seed=seed) for seed in range(3)]
    steps = {}
    for forces in (True, False):
        options: dict[str, Any] = {"structured_outputs_forcing": forces, "engine_process": False}
        with LLM(text_model, dtype="float32", **options) as engine:
            launched.clear()
            outputs = engine.generate([PROMPT] * 3, params, use_tqdm=False)
            steps[forces] = sum(any(c.num_rows for c in batch.chunks) for batch in launched)
        for output in outputs:
            assert re.fullmatch("the quick brown fox [ab] jumps over the lazy dog", text_of(output))
    assert steps[True] <= 3
    assert steps[False] >= min(len(output.outputs[0].token_ids) for output in outputs)


def test_faults_reach_their_own_callers(llm: LLM) -> None:
    params = [
        asked(StructuredOutputs(json={"not": {}})),
        asked(StructuredOutputs(choice=["yes", "no"])),
        asked(StructuredOutputs(regex="(a{1000}){1000}")),
        asked(StructuredOutputs(regex="a(")),
    ]
    outputs = llm.generate([PROMPT] * 4, params, use_tqdm=False, on_error="return")
    assert isinstance(outputs[0].error, RequestError)
    assert "uses not at #" in str(outputs[0].error)
    assert text_of(outputs[1]) in ("yes", "no")
    assert isinstance(outputs[2].error, LimitError)
    assert isinstance(outputs[3].error, RequestError)


def test_without_the_library(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'sensorium-core\[structured\]'"):
        llm.generate(PROMPT, asked(StructuredOutputs(regex="never seen")), use_tqdm=False)


@pytest.mark.gpu
@pytest.mark.parametrize("engine_process", [True, False])
def test_on_a_gpu(text_model: Path, engine_process: bool) -> None:
    """Steps are planned and launched ahead there, so that forced runs enter one step late."""
    schemas = drawn(20)
    params: list[SamplingParams] = []
    for seed, schema in enumerate(schemas):
        params += [asked(StructuredOutputs(json=schema), seed=seed), asked(None, max_tokens=9)]
    options: dict[str, Any] = {"max_model_len": 1024, "kv_cache_memory_bytes": 2**30}
    with LLM(
        text_model, dtype="float32", device="cuda", engine_process=engine_process, **options
    ) as llm:
        outputs = llm.generate([PROMPT] * len(params), params, use_tqdm=False)
        check(outputs[::2], schemas)
        [alone] = llm.generate(PROMPT, params[1], use_tqdm=False)
        assert {text_of(output) for output in outputs[1::2]} == {text_of(alone)}
        llm.check_integrity()


def test_in_a_process_of_its_own(text_model: Path) -> None:
    with LLM(text_model, dtype="float32", engine_process=True, max_model_len=256) as llm:
        params = [asked(StructuredOutputs(json=PERSON), seed=seed) for seed in range(8)]
        check(llm.generate([PROMPT] * 8, params, use_tqdm=False), [PERSON] * 8)
        with pytest.raises(RequestError, match="uses not at #"):
            llm.generate(PROMPT, asked(StructuredOutputs(json={"not": {}})), use_tqdm=False)
        llm.check_integrity()
