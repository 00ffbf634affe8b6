"""End-of-text ids and defaults out of a checkpoint's files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from sensorium.engine.generation_config import (
    GenerationConfig,
    read_generation_config,
    warn_of_large_ids,
)
from sensorium.errors import ConfigError
from sensorium.tokenizer import Tokenizer
from sensorium.tokenizer.settings import TokenizerSettings

Warnings = Callable[[], list[str]]
VOCAB = 8


def tokenizer(eos: str | None = "c", size: int = VOCAB) -> Tokenizer:
    backend = Backend(models.BPE(vocab={chr(97 + i): i for i in range(size)}, merges=[]))
    backend.add_tokens([AddedToken("<far>", special=True)])
    named = {} if eos is None else {"eos_token": eos}
    return Tokenizer(backend, TokenizerSettings(named, (), (), {}))


def read(
    generation: dict[str, Any], config: dict[str, Any] | None = None, eos: str | None = "c"
) -> GenerationConfig:
    return read_generation_config("m", generation, config or {}, tokenizer(eos), VOCAB)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Warnings:
    caplog.set_level(logging.WARNING, "sensorium.engine")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("generation", "config", "eos", "expected"),
    [
        ([1, 4], 5, "c", {1, 4}),
        (1, 5, "c", {1}),
        (None, 5, "c", {5}),
        (None, [5, 6], "c", {5, 6}),
        (None, None, "c", {2}),
        (None, None, None, set()),
    ],
)
def test_the_first_place_that_names_ids_counts(
    generation: Any, config: Any, eos: str | None, expected: set[int], warnings: Warnings
) -> None:
    assert read({"eos_token_id": generation}, {"eos_token_id": config}, eos).eos_ids == expected
    nested = {"text_config": {"eos_token_id": config}}
    assert read({"eos_token_id": generation}, nested, eos).eos_ids == expected
    assert warnings() == []


@pytest.mark.parametrize(
    ("generation", "config", "eos", "expected", "sentence"),
    [
        ([1, 8], None, "c", {1}, "generation_config.json of m names the end-of-text ids 8, which"),
        ([-1, 9, 1], None, "c", {1}, "generation_config.json of m names the end-of-text ids -1, 9"),
        ([8], 5, "c", {5}, "generation_config.json of m"),
        (None, [5, 10**9], "c", {5}, "config.json of m names the end-of-text ids 1000000000,"),
        (None, -1, "c", {2}, "config.json of m names the end-of-text ids -1,"),
        (None, None, "<far>", set(), "the tokenizer of m names the end-of-text ids 8,"),
    ],
)
def test_ids_that_the_vocabulary_lacks_are_dropped_with_a_warning(
    generation: Any,
    config: Any,
    eos: str,
    expected: set[int],
    sentence: str,
    warnings: Warnings,
) -> None:
    assert read({"eos_token_id": generation}, {"eos_token_id": config}, eos).eos_ids == expected
    [told] = warnings()
    assert told.startswith(sentence)
    assert "vocabulary of 8 lacks; they are left out" in told


@pytest.mark.parametrize("value", ["</s>", [1, None], [True], 1.0, {"a": 1}])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_ids_that_are_none_are_named(value: Any, file: str) -> None:
    entry = {"eos_token_id": value}
    with pytest.raises(ConfigError, match=rf"^{file} of m has eos_token_id: .* must be a token id"):
        read(*((entry, {}) if file.startswith("generation") else ({}, entry)))


def test_defaults_of_sampling() -> None:
    found = read({"temperature": 0.6, "top_k": 0, "max_new_tokens": 70, "num_beams": 4})
    assert found.defaults == {"temperature": 0.6, "top_k": 0}
    assert (found.sampling.temperature, found.sampling.max_tokens) == (0.6, 70)
    assert (found.sampling.top_p, read({}).sampling.max_tokens) == (None, 16)
    greedy = read({"temperature": 0.6, "do_sample": False})
    assert greedy.sampling.greedy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1.0),
        ("temperature", "0.6"),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", 2.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("max_new_tokens", "many"),
        ("max_new_tokens", -3),
    ],
)
def test_a_default_that_cannot_hold_is_told_with_file_and_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read({key: value})
    assert str(caught.value).startswith(f"generation_config.json of m has {key}: {value!r}. ")
    assert 'generation_config="sensorium"' in str(caught.value)


def test_another_folders_file_is_named_as_its_own(warnings: Warnings) -> None:
    for given in ({"top_p": 2}, {"eos_token_id": "x"}):
        with pytest.raises(ConfigError, match=r"^generation_config.json of /elsewhere has "):
            read_generation_config("m", given, {}, tokenizer(), VOCAB, "/elsewhere")
    read_generation_config("m", {"eos_token_id": 8}, {"eos_token_id": 9}, tokenizer(), VOCAB, "/e")
    of_file, of_config = warnings()
    assert of_file.startswith("generation_config.json of /e names")
    assert of_config.startswith("config.json of m names")


def test_a_tokenizer_larger_than_the_model_is_told_once(warnings: Warnings) -> None:
    warn_of_large_ids("m", tokenizer(), VOCAB + 1)
    assert warnings() == []
    warn_of_large_ids("m", tokenizer(), VOCAB)
    [told] = warnings()
    assert told.startswith("the tokenizer of m has ids up to 8, the model's vocabulary ends at 7;")
