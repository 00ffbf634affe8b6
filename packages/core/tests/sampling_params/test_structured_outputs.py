"""``StructuredOutputs`` takes every spelling of a form and keeps text."""

from __future__ import annotations

import json
import pickle
from collections import UserDict
from typing import Any

import pytest

from sensorium import SamplingParams, StructuredOutputs
from sensorium.errors import RequestError, UnsupportedError
from sensorium.sampling_params import StructuredOutputsParams

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}


class Model:
    """Stands for a class of pydantic's."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return SCHEMA


@pytest.mark.parametrize("spelling", [SCHEMA, UserDict(SCHEMA), json.dumps(SCHEMA), Model])
def test_a_schema_is_kept_as_text(spelling: Any) -> None:
    form = StructuredOutputs(json=spelling)
    assert isinstance(form.json, str)
    assert json.loads(form.json) == SCHEMA
    assert list(json.loads(form.json)["properties"]) == ["b", "a"]
    assert form.form == "json"


def test_a_class_of_pydantic() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Fox", name=(str, ...), age=(int, 3))
    assert json.loads(StructuredOutputs(json=model).json) == model.model_json_schema()


def test_it_can_be_hashed_and_sent() -> None:
    forms = [
        StructuredOutputs(json=SCHEMA),
        StructuredOutputs(regex="a"),
        StructuredOutputs(choice=["a", "b", "a"]),
        StructuredOutputs(grammar='start: "a"'),
        StructuredOutputs(json_object=True),
    ]
    assert len(set(forms)) == 5
    assert pickle.loads(pickle.dumps(forms)) == forms
    assert forms[2].choice == ("a", "b")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "exactly one of json, regex.*was given none"),
        ({"json_object": False}, "was given none"),
        ({"regex": "a", "choice": ["a"]}, "was given regex and choice"),
        ({"regex": "a", "disable_any_whitespace": True}, "disable_any_whitespace goes with json"),
        ({"choice": ["a"], "whitespace_pattern": " "}, "whitespace_pattern goes with json"),
        (
            {"json": {}, "disable_any_whitespace": True, "whitespace_pattern": " "},
            "exclude each other",
        ),
        ({"json_object": True, "disable_additional_properties": True}, "goes with json, not"),
        ({"json": 7}, "type int; it must be a schema"),
        ({"json": {"enum": [object()]}}, "can't be written as JSON: it holds a value of type obj"),
        ({"json": {"maximum": float("nan")}}, "can't be written as JSON"),
        ({"regex": 7}, "regex is 7; it must be a string"),
        ({"choice": "ab"}, "choice is 'ab'; it must be a list"),
        ({"choice": []}, "at least one string"),
        ({"choice": ["a", 1]}, "choice holds 1"),
        ({"json_object": 1}, "json_object is 1"),
    ],
)
def test_what_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        StructuredOutputs(**given)


def test_a_schema_that_holds_itself() -> None:
    schema: dict[str, Any] = {}
    schema["items"] = schema
    with pytest.raises(RequestError, match=r"Circular|holds itself"):
        StructuredOutputs(json=schema)


def test_structural_tags_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="structural_tag"):
        StructuredOutputs(structural_tag="{}")


def test_the_older_names_are_refused_with_the_new_spelling() -> None:
    for field in ("json", "regex", "choice", "grammar", "json_object"):
        sentence = rf"guided_{field} .*structured_outputs=StructuredOutputs\({field}="
        with pytest.raises(UnsupportedError, match=sentence):
            SamplingParams(**{f"guided_{field}": "x"})


def test_it_is_a_field_of_sampling() -> None:
    form = StructuredOutputs(regex="a")
    assert SamplingParams(structured_outputs=form).structured_outputs == form
    assert StructuredOutputsParams is StructuredOutputs
    with pytest.raises(RequestError, match="type dict; it must be a StructuredOutputs"):
        SamplingParams(structured_outputs={"regex": "a"})
