"""Bounds of one request: what lies at a bound is answered, what lies beyond is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted_engine import ScriptedEngine
from served import Served, served

from sensorium_server_openai import Limits

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
LIMITS = Limits(
    prompts=2, n=3, choices=4, stop_strings=2, stop_chars=4, list_entries=2, bad_words_chars=6
)
ASK: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
    COMPLETIONS: {"prompt": "Hi"},
    EMBEDDINGS: {},
}


@pytest.fixture(scope="module")
def bounded() -> Iterator[dict[str, Served]]:
    """Path → a server with these limits."""
    with (
        served(ScriptedEngine(), limits=LIMITS) as generating,
        served(ScriptedEngine(task="embed"), limits=LIMITS) as embedding,
    ):
        yield {CHAT: generating, COMPLETIONS: generating, EMBEDDINGS: embedding}


@pytest.mark.parametrize(
    ("path", "at", "beyond", "sentence"),
    [
        (CHAT, {"n": 3}, {"n": 4}, "n is 4; this server allows 3"),
        (COMPLETIONS, {"n": 3}, {"n": 4}, "n is 4; this server allows 3"),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 2}, {"prompt": ["a", "b"], "n": 3},
         "2 prompts times n make 6 answers; this server allows 4"),
        (COMPLETIONS, {"prompt": [[1], [2]]}, {"prompt": [[1], [2], [3]]},
         "prompt has 3 entries; this server allows 2"),
        (EMBEDDINGS, {"input": ["a", "b"]}, {"input": ["a", "b", "c"]},
         "input has 3 entries; this server allows 2"),
        (CHAT, {"stop": ["a", "b"]}, {"stop": ["a", "b", "c"]},
         "stop has 3 entries; this server allows 2"),
        (CHAT, {"stop": "abcd"}, {"stop": "abcde"}, "has 5 characters; this server allows 4"),
        (COMPLETIONS, {"stop": ["abcd"]}, {"stop": ["abcde"]}, "has 5 characters"),
        (CHAT, {"bad_words": ["abc", "abc"]}, {"bad_words": ["abc", "abcd"]}, "the 6 characters"),
        (CHAT, {"bad_words": ["a", "b"]}, {"bad_words": ["a", "b", "c"]}, "bad_words has 3"),
        (CHAT, {"stop_token_ids": [1, 2]}, {"stop_token_ids": [1, 2, 3]}, "stop_token_ids has 3"),
        (CHAT, {"logit_bias": {"1": 1, "2": 1}}, {"logit_bias": {"1": 1, "2": 1, "3": 1}},
         "logit_bias has 3"),
    ],
)  # fmt: skip
def test_a_bound_holds(
    bounded: dict[str, Served], path: str, at: Any, beyond: Any, sentence: str
) -> None:
    server = bounded[path]
    assert server.post(path, {**ASK[path], **at}).status_code == 200
    refused = server.post(path, {**ASK[path], **beyond})
    assert refused.status_code == 400
    assert sentence in refused.json()["error"]["message"]
