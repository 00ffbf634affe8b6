"""Log-probabilities as chats, completions and prompts show them."""

from __future__ import annotations

import math
from typing import Any

from sensorium import Logprob, RequestOutput
from sensorium.outputs import CompletionOutput
from sensorium_server_openai.answers.logprobs import (
    chat_logprobs,
    completion_logprobs,
    num_logprobs,
    prompt_logprobs,
)

#: The token 5 was chosen, which is the third best; the best has no probability to speak of.
ENTRIES = {
    5: Logprob(-math.inf, rank=3, decoded_token="é"),
    6: Logprob(-0.5, rank=1, decoded_token="a"),
    7: Logprob(-1.0, rank=2, decoded_token="b"),
}
ANSWER = CompletionOutput(0, "é", (5,), logprobs=(ENTRIES,))


def test_a_chat_names_the_chosen_and_the_best() -> None:
    found = chat_logprobs(ANSWER, 2, as_ids=False)
    assert found == {
        "content": [
            {
                "token": "é",
                "logprob": -9999.0,  # JSON has no infinity
                "bytes": [0xC3, 0xA9],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.5, "bytes": [97]},
                    {"token": "b", "logprob": -1.0, "bytes": [98]},
                ],
            }
        ]
    }
    none = chat_logprobs(ANSWER, 0, as_ids=False)
    assert none is not None
    assert none["content"][0]["top_logprobs"] == []
    assert chat_logprobs(CompletionOutput(0, "é", (5,)), 2, as_ids=False) is None


def test_tokens_as_their_ids() -> None:
    chat: Any = chat_logprobs(ANSWER, 1, as_ids=True)
    [entry] = chat["content"]
    assert (entry["token"], entry["bytes"]) == ("token_id:5", [0xC3, 0xA9])
    assert entry["top_logprobs"][0]["token"] == "token_id:6"
    completion = completion_logprobs((5,), (ENTRIES,), 1, as_ids=True)
    assert completion["tokens"] == ["token_id:5"]
    assert completion["top_logprobs"] == [{"token_id:6": -0.5}]


def test_a_completion_has_four_lists_and_an_echoed_prompts_first_token_no_probability() -> None:
    found = completion_logprobs((9, 5), (None, ENTRIES), 1, as_ids=False, first_text="Hi")
    assert found == {
        "tokens": ["Hi", "é"],
        "text_offset": [0, 2],
        "token_logprobs": [None, -9999.0],
        "top_logprobs": [None, {"a": -0.5}],
    }


def test_a_prompts_are_named_by_their_ids() -> None:
    assert prompt_logprobs(None) is None
    first, second = prompt_logprobs((None, ENTRIES)) or ()
    assert first is None
    assert second["5"] == {"logprob": -9999.0, "rank": 3, "decoded_token": "é"}
    assert list(second) == ["5", "6", "7"]


def test_what_an_output_has_is_counted() -> None:
    output = RequestOutput("r", "p", (1, 2), (ANSWER, ANSWER), True)
    assert num_logprobs(output) == 6
    scored = RequestOutput("r", "p", (1, 2), (), True, prompt_logprobs=(None, ENTRIES))
    assert num_logprobs(scored) == 6
