"""Whatever schema is asked for, nine of ten answers come to their end, and those are of it.

With real weights (SmolLM2, see ``benchmarks/checkpoints/smollm2.py``) and with the embedded tiny
model on pictures.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from drawn_schemas import drawn
from json_schema_suite import cases
from jsonschema import Draft202012Validator

from sensorium import LLM, SamplingParams, StructuredOutputs
from sensorium.errors import RequestError
from sensorium_tiny_models import model_path
from sensorium_tiny_models.questions import HELD_OUT
from sensorium_tiny_models.score import draw_items

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REGEXES = [
    r"[A-Z][a-z]{2,8}( [a-z]{2,8}){1,4}\.",
    r"\d{4}-\d{2}-\d{2}",
    r"(\+49|0)[1-9]\d{5,8}",
    r"[a-f0-9]{8}",
    r"(red|green|blue)(, (red|green|blue)){0,3}",
    r"<b>[^<>]{1,30}</b>",
]


@pytest.fixture(scope="module")
def real() -> Iterator[LLM]:
    sys.path.append(str(BENCHMARKS))
    from checkpoints.smollm2 import checkpoint

    try:
        folder = checkpoint()
    except SystemExit as error:
        pytest.skip(str(error))
    finally:
        sys.path.remove(str(BENCHMARKS))
    with LLM(
        str(folder), device="cpu", dtype="float32", max_model_len=2048, max_num_seqs=32
    ) as llm:
        yield llm
        llm.check_integrity()


@pytest.fixture(scope="module")
def tiny() -> Iterator[LLM]:
    with LLM(str(model_path()), dtype="float32", max_num_seqs=32) as llm:
        yield llm
        llm.check_integrity()


def sampling(form: StructuredOutputs | None, seed: int, max_tokens: int = 256) -> SamplingParams:
    return SamplingParams(
        structured_outputs=form, max_tokens=max_tokens, temperature=0.8, seed=seed
    )


def conversation(schema: Any) -> list[dict[str, Any]]:
    # The beginning is enough to be different: prompts cost more than answers on a CPU.
    text = f"Give an example of this JSON schema, in one line: {json.dumps(schema)}"
    return [{"role": "user", "content": text[:160]}]


def check(outputs: Sequence[Any], schemas: Sequence[Any], *, share: float = 0.9) -> None:
    """Finished answers are of their schemas, and at least this share is finished."""
    finished = 0
    for output, schema in zip(outputs, schemas, strict=True):
        answer = output.outputs[0]
        if answer.finish_reason == "stop":
            finished += 1
            Draft202012Validator(schema).validate(json.loads(answer.text))
        else:
            assert answer.finish_reason == "length"
    assert finished >= share * len(schemas), f"{finished} of {len(schemas)}"


def check_schemas(llm: LLM, schemas: Sequence[Any]) -> None:
    params = [sampling(StructuredOutputs(json=schema), i) for i, schema in enumerate(schemas)]
    outputs = llm.chat([conversation(schema) for schema in schemas], params, use_tqdm=False)
    check(outputs, schemas)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_drawn_schemas_on_real_weights(real: LLM) -> None:
    check_schemas(real, drawn(500))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_suites_schemas_on_real_weights(real: LLM, tmp_path: Path) -> None:
    """Those that are claimed; what isn't is refused with a sentence."""
    try:
        suite = cases(tmp_path)
    except OSError as error:
        pytest.skip(str(error))
    schemas = [case["schema"] for case in suite]
    params = [sampling(StructuredOutputs(json=schema), i) for i, schema in enumerate(schemas)]
    outputs = real.chat(
        [conversation(schema) for schema in schemas], params, use_tqdm=False, on_error="return"
    )
    claimed = [i for i, output in enumerate(outputs) if output.error is None]
    assert len(claimed) > 100
    # These schemas leave most open: a small model writes numbers whose digits don't end.
    check([outputs[i] for i in claimed], [schemas[i] for i in claimed], share=0.75)
    for output in outputs:
        assert isinstance(output.error, RequestError | None), output.error
        assert output.error is None or str(output.error).endswith(".")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_expressions_and_choices_on_real_weights(real: LLM) -> None:
    forms = [StructuredOutputs(regex=regex) for regex in REGEXES] * 5
    params = [sampling(form, i) for i, form in enumerate(forms)]
    outputs = real.chat([conversation("a short text")] * len(forms), params, use_tqdm=False)
    for form, output in zip(forms, outputs, strict=True):
        assert output.outputs[0].finish_reason == "stop"
        assert form.regex is not None
        assert re.fullmatch(form.regex, output.outputs[0].text)
    words = ["yes", "no", "I don't know", "yes, but"]
    params = [sampling(StructuredOutputs(choice=words), seed) for seed in range(20)]
    outputs = real.chat([conversation("a word")] * 20, params, use_tqdm=False)
    assert {output.outputs[0].text for output in outputs} <= set(words)


def asked(count: int, seed: int, kind: str = "color") -> tuple[list[list[dict[str, Any]]], Any]:
    """Conversations about pictures, and what their answers are."""
    items = draw_items(HELD_OUT, seed, kind, count)
    conversations = []
    for item in items:
        pictures = [{"type": "image_pil", "image_pil": image} for image in item.images]
        content = [*pictures, {"type": "text", "text": item.question}]
        conversations.append([{"role": "user", "content": content}])
    return conversations, items


def test_choices_about_pictures(tiny: LLM) -> None:
    """A form leaves right answers right, and mates without one have what they have alone."""
    conversations, items = asked(16, seed=3)
    free = SamplingParams(temperature=0.0, max_tokens=12)
    alone = tiny.chat(conversations, free, use_tqdm=False)
    words = sorted({output.outputs[0].text for output in alone} | {"none of them"})
    form = SamplingParams(
        temperature=0.0, max_tokens=12, structured_outputs=StructuredOutputs(choice=words)
    )
    params = [form, free] * 16
    both = tiny.chat([c for c in conversations for _ in range(2)], params, use_tqdm=False)
    assert [o.outputs[0].text for o in both[1::2]] == [o.outputs[0].text for o in alone]
    assert [o.outputs[0].text for o in both[::2]] == [o.outputs[0].text for o in alone]
    assert len(items) == 16


@pytest.mark.parametrize("count", [12, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_drawn_schemas_about_pictures(tiny: LLM, count: int) -> None:
    schemas = drawn(count)
    conversations, _ = asked(min(count, 50), seed=4)
    conversations = [conversations[i % len(conversations)] for i in range(count)]
    params = [sampling(StructuredOutputs(json=schema), i) for i, schema in enumerate(schemas)]
    # Of a dozen, one or two more or less are chance.
    share = 0.9 if count == 500 else 0.5
    check(tiny.chat(conversations, params, use_tqdm=False), schemas, share=share)
