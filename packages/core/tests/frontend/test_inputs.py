"""The types of prompts name what is read, and nothing else."""

from __future__ import annotations

import typing

from sensorium.frontend import prompts
from sensorium.inputs import PromptType, TextPrompt, TokensPrompt
from sensorium.multimodal.inputs import MultiModalDataDict


def test_every_key_that_is_read_has_its_type_and_only_those() -> None:
    keys = {*typing.get_type_hints(TextPrompt), *typing.get_type_hints(TokensPrompt)}
    assert keys == set(prompts._KEYS)


def test_each_form_is_read() -> None:
    data: MultiModalDataDict = {"note": ["a", None]}
    text: TextPrompt = {
        "prompt": "a",
        "multi_modal_data": data,
        "multi_modal_uuids": {"note": [None, "u"]},
        "mm_processor_kwargs": {"gain": 1},
        "cache_salt": "s",
    }
    ids: TokensPrompt = {"prompt_token_ids": [1, 2]}
    forms: list[PromptType] = ["a", [1, 2], text, ids]
    parsed = [prompts.parse_prompt(form) for form in forms]
    assert [one.text for one in parsed] == ["a", None, "a", None]
    assert [one.token_ids for one in parsed] == [None, (1, 2), None, (1, 2)]
    assert parsed[2].media == data
    assert parsed[2].salt == "s"
