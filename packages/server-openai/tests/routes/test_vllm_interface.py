"""What users of vLLM's server write: every field is honoured or refused by its name, every flag and
route that they know is here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from scripted_engine import ScriptedEngine
from served import Served, served

from sensorium import RequestOutput, SamplingParams
from sensorium_server_openai.command.flags import ALL
from sensorium_server_openai.engine_port import Prompt
from sensorium_server_openai.protocol.chat import ChatRequest
from sensorium_server_openai.protocol.completions import CompletionRequest

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}

SAMPLING: dict[str, Any] = {
    "n": 2,
    "seed": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.5,
    "min_tokens": 1,
    "max_tokens": 9,
    "ignore_eos": True,
    "stop_token_ids": [4],
    "allowed_token_ids": [1, 2],
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": True,
    "truncate_prompt_tokens": 5,
    "truncation_side": "right",
    "prompt_logprobs": 2,
}
#: Beside those, by vLLM's and OpenAI's names.
OTHER_FIELDS = """
    model messages stream stream_options stop logit_bias bad_words logprobs top_logprobs user
    response_format tools tool_choice parallel_tool_calls max_completion_tokens functions
    function_call modalities prediction store metadata service_tier verbosity reasoning_effort
    web_search_options safety_identifier prompt_cache_key
    use_beam_search length_penalty logprob_token_ids echo add_generation_prompt
    continue_final_message add_special_tokens documents chat_template chat_template_kwargs
    media_io_kwargs mm_processor_kwargs structured_outputs priority request_id session_id
    return_tokens_as_token_ids return_token_ids return_prompt_text thinking_token_budget
    include_reasoning cache_salt kv_transfer_params guided_json guided_regex guided_choice
    guided_grammar guided_decoding_backend guided_whitespace_pattern logits_processors best_of
""".split()
FLAGS = """
    host port api-key served-model-name runner task trust-remote-code max-model-len
    limit-mm-per-prompt media-io-kwargs mm-processor-kwargs mm-processor-cache-gb
    allowed-local-media-path allowed-media-domains allow-private-media-hosts chat-template
    chat-template-content-format interleave-mm-strings gpu-memory-utilization enforce-eager
    tensor-parallel-size max-num-seqs max-num-batched-tokens dtype load-format seed
    max-request-body-mb tool-call-parser enable-auto-tool-choice generation-config revision
    hf-overrides max-logprobs trust-request-mm-kwargs scheduling-policy
    enable-prompt-tokens-details root-path ssl-keyfile ssl-certfile
""".split()
ROUTES = {
    "GET": ("/v1/models", "/v1/models/tiny-vl", "/health", "/ping", "/version", "/metrics"),
    "POST": ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"),
}


@pytest.mark.parametrize("field", OTHER_FIELDS)
def test_a_field_is_honoured_or_refused_by_its_name(plain: Served, field: str) -> None:
    if field in ChatRequest.model_fields:
        return
    assert field in ChatRequest.refused
    response = plain.post(PATH, {**ASK, field: {"any": "thing"}})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert error["message"].startswith(f"{field!r} is not served")


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_sampling_reaches_the_engine(path: str) -> None:
    engine = ScriptedEngine()
    ask = ASK if path == PATH else {"prompt": "Hi"}
    with served(engine) as server:
        assert server.post(path, {**ask, **SAMPLING, "logit_bias": {"5": 2}}).status_code == 200
    [(_, sampling)] = engine.asked
    assert sampling is not None
    for name, value in SAMPLING.items():
        found = getattr(sampling, name)
        assert (list(found) if isinstance(value, list) else found) == value, name
    assert dict(sampling.logit_bias or {}) == {5: 2.0}
    known = ChatRequest if path == PATH else CompletionRequest
    assert SAMPLING.keys() <= known.model_fields.keys()


@pytest.mark.parametrize(
    ("path", "ask", "first"),
    [(PATH, ASK, "chatcmpl-"), ("/v1/completions", {"prompt": "Hi"}, "cmpl-")],
)
def test_a_request_names_its_answer(
    plain: Served, path: str, ask: dict[str, Any], first: str
) -> None:
    named = plain.post(path, {**ask, "request_id": "mine-7"}).json()["id"]
    assert named == first + "mine-7"
    others = {plain.post(path, ask).json()["id"] for _ in range(2)}
    assert len(others) == 2
    assert all(other.startswith(first) for other in others)


class Prioritised(ScriptedEngine):
    """Keeps requests' priorities."""

    def __init__(self) -> None:
        super().__init__()
        self.priorities: list[int] = []

    def answer(
        self, prompt: Prompt, sampling: SamplingParams, *, stream: bool, priority: int
    ) -> AsyncIterator[RequestOutput]:
        """See ``ScriptedEngine.answer``."""
        self.priorities.append(priority)
        return super().answer(prompt, sampling, stream=stream, priority=priority)


def test_a_priority_reaches_the_engine_where_the_operator_lets_it() -> None:
    engine = Prioritised()
    with served(engine, priorities=True) as server:
        for body in ({"priority": -3}, {}):
            assert server.post(PATH, {**ASK, **body}).status_code == 200
    assert engine.priorities == [-3, 0]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_here(flag: str) -> None:
    assert flag in ALL


def test_routes_are_here(plain: Served) -> None:
    with plain.client() as client:
        for method, paths in ROUTES.items():
            for path in paths:
                response = client.request(method, path)
                there = response.status_code == (200 if method == "GET" else 415)
                assert there, (path, response.text)


def test_a_models_card() -> None:
    with served(ScriptedEngine(), ("first", "second")) as server, server.client() as client:
        cards = client.get("/v1/models").json()
        second = client.get("/v1/models/second").json()
        missing = client.get("/v1/models/third")
        body = {**ASK, "model": "second"}
        assert server.post(PATH, body).json()["model"] == "second"
        assert server.post(PATH, ASK).json()["model"] == "first"
    assert cards["object"] == "list"
    assert [card["id"] for card in cards["data"]] == ["first", "second"]
    assert second == cards["data"][1]
    assert second.pop("created") > 0
    assert second == {
        "id": "second",
        "object": "model",
        "owned_by": "sensorium",
        "root": "scripted",
        "parent": None,
        "max_model_len": 4096,
        "permission": [],
    }
    assert missing.status_code == 404


@pytest.mark.parametrize(("path", "ask"), [(PATH, ASK), ("/v1/completions", {"prompt": "Hi"})])
def test_usage_in_every_chunk(plain: Served, path: str, ask: dict[str, Any]) -> None:
    wanted = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, done = plain.events(path, {**ask, "stream": True, "stream_options": wanted})
    assert done == "[DONE]"
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == last["usage"]["completion_tokens"] == 3
    assert last["choices"] == []
    for chunk in [*chunks, last]:
        assert chunk["usage"]["prompt_tokens"] == 3
        assert chunk["system_fingerprint"]
        assert chunk["id"] == last["id"]
