"""What a caller may write, how it is kept, and the sentence for what can't be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sensorium.errors import RequestError, UnsupportedError
from sensorium.sampling_params import NEUTRAL, SamplingParams


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"stop": "x"}, {"stop": ("x",), "stop_strings": ("x",)}),
        ({"stop": ["x", "y"]}, {"stop": ("x", "y")}),
        ({"stop_token_ids": np.array([3, 4])}, {"stop_token_ids": (3, 4)}),
        ({"allowed_token_ids": {7}}, {"allowed_token_ids": (7,)}),
        ({}, {"allowed_token_ids": None, "logit_bias": {}, "bad_words": ()}),
        ({"logit_bias": {"5": 1, 6: np.float32(2.0)}}, {"logit_bias": {5: 1.0, 6: 2.0}}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": -2}, {"seed": -2}),
        ({"max_tokens": 0}, {"max_tokens": 0}),
        ({"logprobs": -1, "prompt_logprobs": 500}, {"logprobs": -1, "prompt_logprobs": 500}),
        ({"temperature": np.float32(0.5), "top_k": np.int64(3)}, {"temperature": 0.5, "top_k": 3}),
    ],
)
def test_forms_that_are_taken(given: dict[str, Any], kept: dict[str, Any]) -> None:
    params = SamplingParams(**given)
    assert {name: getattr(params, name) for name in kept} == kept


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"temperature": -0.1}, r"temperature is -0\.1; it must be a number at least 0"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": "1"}, "temperature is '1'; it must be a number"),
        ({"temperature": True}, "temperature is True"),
        ({"top_p": 0}, "top_p is 0; it must be a number above 0 and at most 1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"top_k": 1.5}, r"top_k is 1\.5; it must be an integer"),
        ({"top_k": -2}, "top_k is -2; it must be an integer at least -1"),
        ({"min_p": 1.1}, r"min_p is 1\.1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"repetition_penalty": 1e300}, r"repetition_penalty is 1e\+300"),
        ({"presence_penalty": 2.1}, r"presence_penalty is 2\.1"),
        ({"frequency_penalty": -2.1}, r"frequency_penalty is -2\.1"),
        ({"n": 0}, "n is 0"),
        ({"max_tokens": -1}, "max_tokens is -1; it must be an integer at least 0"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens is 5, more than max_tokens, 4"),
        ({"logprobs": -2}, "logprobs is -2; it must be an integer at least -1"),
        ({"logprobs": True}, "logprobs is True"),
        ({"prompt_logprobs": 10**400}, None),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"logit_bias": [1]}, "logit_bias is a list; it must be a mapping"),
        ({"logit_bias": {1.5: 1}}, r"logit_bias has the token id 1\.5"),
        ({"logit_bias": {True: 1}}, "logit_bias has the token id True"),
        ({"logit_bias": {"-1": 1}}, "logit_bias has the token id '-1'"),
        ({"logit_bias": {"x": 1}}, "logit_bias has the token id 'x'"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias has the token id"),
        ({"logit_bias": {1: 101}}, "a value of logit_bias is 101; .* at most 100"),
        ({"logit_bias": {1: None}}, "a value of logit_bias is None"),
        ({"logit_bias": {1: "2"}}, "a value of logit_bias is '2'"),
        ({"stop_token_ids": 7}, "stop_token_ids is 7; it must be a list"),
        ({"stop_token_ids": "7"}, "stop_token_ids is '7'; it must be a list"),
        ({"stop_token_ids": [-1]}, "stop_token_ids has the token id -1"),
        ({"stop_token_ids": [1.0]}, r"stop_token_ids has the token id 1\.0"),
        ({"allowed_token_ids": []}, "allowed_token_ids is empty"),
        ({"allowed_token_ids": [3, None]}, "allowed_token_ids has the token id None"),
        ({"stop": 3}, "stop is 3; it must be a list"),
        ({"stop": ["x", ""]}, "stop holds ''; only non-empty strings"),
        ({"bad_words": "word"}, "bad_words is 'word'; it must be a list"),
        ({"stop": "x", "detokenize": False}, "stop strings need detokenize=True"),
        ({"ignore_eos": "no"}, "ignore_eos is 'no'; it must be True or False"),
    ],
)
def test_what_cannot_be_is_told(given: dict[str, Any], sentence: str | None) -> None:
    if sentence is None:
        SamplingParams(**given)  # large, but only the engine knows how many there are
        return
    with pytest.raises(RequestError, match=sentence):
        SamplingParams(**given)


@pytest.mark.parametrize("name", ["best_of", "logits_processors", "guided_decoding"])
def test_what_is_not_built_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{name} is not supported"):
        SamplingParams(**{name: 1})


def test_what_is_open_is_filled_and_what_is_said_wins() -> None:
    defaults = {"temperature": 0.6, "top_k": 20}
    filled = SamplingParams(top_k=5, presence_penalty=1.0).filled(defaults)
    assert (filled.temperature, filled.top_k, filled.presence_penalty) == (0.6, 5, 1.0)
    assert filled.top_p == NEUTRAL["top_p"]
    assert not filled.greedy
    assert SamplingParams(temperature=0).filled(defaults).greedy
    assert filled.filled({"top_p": 0.1}) is filled
