"""The real `openai` client against the embedded model: what the seed's users write."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from served import Served, served

from sensorium import AsyncEngine
from sensorium_server_openai.engine_port import EnginePort
from sensorium_tiny_models import model_path


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[OpenAI]:
    with OpenAI(api_key="EMPTY", base_url=server.url + "/v1", max_retries=0) as opened:
        yield opened


def about(text: str, *parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]


def picture(url: str | None, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": None if url is None else {"url": url}, **more}


GREEDY: dict[str, Any] = {"model": "tiny-vl", "temperature": 0, "max_completion_tokens": 16}


def test_streamed_and_whole_answers_agree(client: OpenAI, stop_sign: str) -> None:
    messages = about("What shape is this?", picture(stop_sign))
    whole = client.chat.completions.create(messages=messages, **GREEDY)
    stream = client.chat.completions.create(
        messages=messages, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > 20


def test_a_picture_by_its_name_alone(client: OpenAI, stop_sign: str) -> None:
    def answer(part: dict[str, Any]) -> Any:
        messages = about("What shape is this?", part)
        return client.chat.completions.create(messages=messages, **GREEDY).choices[0].message

    first = answer(picture(stop_sign, uuid="sign"))
    assert answer(picture(None, uuid="sign")) == first
    assert answer({"type": "image_url", "uuid": "sign"}) == first
    assert answer({"type": "image_pil", "image_pil": None, "uuid": "sign"}) == first
    with pytest.raises(openai.BadRequestError, match="cache miss for image at index 0"):
        answer(picture(None, uuid="never seen"))


def test_several_answers_with_seeds_and_logprobs(client: OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny-vl", "messages": about("Hello"), "max_tokens": 6}
    ask |= {"n": 3, "seed": 5, "temperature": 1.5, "logprobs": True, "top_logprobs": 2}
    first = client.chat.completions.create(**ask)
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    again = client.chat.completions.create(**ask)
    assert [c.message.content for c in again.choices] == [c.message.content for c in first.choices]
    streamed: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for chunk in client.chat.completions.create(stream=True, **ask):
        for choice in chunk.choices:
            if choice.logprobs is not None:
                streamed[choice.index] += choice.logprobs.content or []
    for choice in first.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert streamed[choice.index] == choice.logprobs.content
        for token in choice.logprobs.content:
            assert len(token.top_logprobs) == 2
            assert token.bytes == list(token.token.encode())
            assert token.logprob <= token.top_logprobs[0].logprob


def test_a_stop_string_ends_the_answer(client: OpenAI, stop_sign: str) -> None:
    messages = about("What shape is this?", picture(stop_sign))
    whole = client.chat.completions.create(messages=messages, **GREEDY).choices[0]
    assert whole.message.content is not None
    word = whole.message.content.split()[1]
    [cut] = client.chat.completions.create(messages=messages, stop=[word], **GREEDY).choices
    assert cut.message.content == whole.message.content.split(word)[0]
    assert cut.finish_reason == "stop"
    assert (cut.model_extra or {})["stop_reason"] == word


def test_a_banned_word_is_not_said(server: Served) -> None:
    ask = {"messages": about("Hi"), "temperature": 0, "max_completion_tokens": 8}
    [said] = server.post("/v1/chat/completions", ask).json()["choices"]
    word = said["message"]["content"].split("!")[0].split()[0]
    [other] = server.post("/v1/chat/completions", {**ask, "bad_words": [word]}).json()["choices"]
    assert word not in other["message"]["content"]


def test_completions_of_lists_whole_and_streamed(client: OpenAI) -> None:
    ids = [5, 6, 7]
    ask: dict[str, Any] = {"model": "tiny-vl", "prompt": [ids, [8, 9]], "max_tokens": 4, "n": 2}
    ask |= {"temperature": 0, "echo": True}
    whole = client.completions.create(**ask)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(stream=True, **ask):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}


def test_scoring_a_prompt(client: OpenAI) -> None:
    scored = client.completions.create(
        model="tiny-vl", prompt="What color is this", max_tokens=1, echo=True, logprobs=1
    )
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.text_offset is not None
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    text = scored.choices[0].text
    for token, offset in zip(logprobs.tokens[:-1], logprobs.text_offset[:-1], strict=True):
        assert text[offset:].startswith(token)


def test_token_ids_there_and_back(server: Served, stop_sign: str) -> None:
    found = server.post("/tokenize", {"prompt": "red or blue", "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert server.post("/detokenize", {"tokens": found["tokens"]}).json() == {
        "prompt": "red or blue"
    }
    messages = about("What is it?", picture(stop_sign))
    counted = server.post("/tokenize", {"messages": messages}).json()
    ask = {"messages": messages, "max_completion_tokens": 1, "return_token_ids": True}
    answer = server.post("/v1/chat/completions", ask).json()
    assert answer["prompt_token_ids"] == counted["tokens"]
    assert answer["usage"]["prompt_tokens"] == counted["count"]
    assert len(answer["choices"][0]["token_ids"]) == 1


async def test_many_at_once(server: Served, stop_sign: str) -> None:
    async with AsyncOpenAI(api_key="x", base_url=server.url + "/v1", max_retries=0) as client:

        async def one(i: int) -> str:
            parts = [picture(stop_sign)] if i % 2 else []
            messages = about(f"{i}: What shape is this?", *parts)
            stream = await client.chat.completions.create(
                model="tiny-vl", messages=messages, stream=True, max_tokens=8, temperature=0
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        answers = await asyncio.gather(*(one(i) for i in range(24)))
    assert all(isinstance(answer, str) for answer in answers)


async def test_clients_that_go_away_leave_nothing(
    engine: AsyncEngine, server: Served, stop_sign: str
) -> None:
    """At every stage: some are closed before their picture is ready, some while they decode."""
    from scripted_engine import until

    body = {"messages": about("Go on", picture(stop_sign)), "stream": True, "ignore_eos": True}
    connections = [server.send("POST", "/v1/chat/completions", body) for _ in range(6)]
    for connection in connections[:3]:
        connection.close()
    for connection in connections[3:]:
        assert b"data: " in connection.recv(65536) + connection.recv(65536)
        connection.close()
    await until(lambda: server.gate.running == 0 and engine.num_unfinished_requests == 0)
    await engine.check_integrity()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"messages": about("x", {"type": "odour_url", "odour_url": {}})}, "odour_url"),
        ({"messages": about("x", {"type": "image_url"})}, "uuid"),
        ({"messages": about("x", picture("data:image/png;base64,@@@"))}, "image 0"),
        ({"extra_body": {"min_tokens": 20}}, "min_tokens"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "messages"),
        ({"messages": about("word " * 4000)}, "context"),
    ],
)
def test_the_callers_fault_is_400_with_a_sentence(
    client: OpenAI, change: dict[str, Any], word: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{**GREEDY, "messages": about("Hi"), **change})
    assert word in caught.value.message
    assert caught.value.status_code == 400


# --- embeddings -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedder() -> Iterator[Served]:
    with (
        AsyncEngine(str(model_path()), task="embed", max_model_len=1024) as loaded,
        served(EnginePort.of(loaded, str(model_path()))) as running,
    ):
        yield running


def test_embeddings_of_texts_in_both_encodings(embedder: Served) -> None:
    with OpenAI(api_key="EMPTY", base_url=embedder.url + "/v1") as client:
        texts = ["a red circle", "a blue square"]
        floats = client.embeddings.create(model="tiny-vl", input=texts, encoding_format="float")
        packed = client.embeddings.create(model="tiny-vl", input=texts)  # base64 on the wire
    for one, other in zip(floats.data, packed.data, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, rtol=1e-6)
        assert abs(np.linalg.norm(one.embedding) - 1) < 1e-5
    assert floats.usage.prompt_tokens == floats.usage.total_tokens > 2


def test_embeddings_of_a_conversation_with_a_picture(embedder: Served, stop_sign: str) -> None:
    ask = {"model": "tiny-vl", "messages": about("Represent this.", picture(stop_sign))}
    seen = embedder.post("/v1/embeddings", ask).json()
    blind = embedder.post("/v1/embeddings", {"messages": about("Represent this.")}).json()
    assert seen["usage"]["prompt_tokens"] > blind["usage"]["prompt_tokens"]
    assert seen["data"][0]["embedding"] != blind["data"][0]["embedding"]
    packed = embedder.post("/v1/embeddings", {**ask, "encoding_format": "base64"}).json()
    vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, seen["data"][0]["embedding"], rtol=1e-6)


def test_a_model_does_what_it_was_loaded_for(embedder: Served, server: Served) -> None:
    wrong = [
        embedder.post("/v1/chat/completions", {"messages": about("Hi")}),
        embedder.post("/v1/completions", {"prompt": "Hi"}),
        server.post("/v1/embeddings", {"input": "Hi"}),
    ]
    for response in wrong:
        assert response.status_code == 404
        assert "loaded to" in response.json()["error"]["message"]


def test_figures_are_told(server: Served, stop_sign: str) -> None:
    for _ in range(2):  # the second finds what the first has prepared
        ask = {"messages": about("Hi", picture(stop_sign)), "max_tokens": 3, "ignore_eos": True}
        assert server.post("/v1/chat/completions", ask).status_code == 200
    server.events("/v1/chat/completions", {**ask, "stream": True})
    with server.client() as client:
        text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    for name in (
        *("time_to_first_token", "e2e_request_latency", "request_time_per_output_token"),
        *("inter_token_latency", "event_loop_lag"),
        *(f"request_{stage}_time" for stage in ("queue", "prefill", "decode", "inference")),
    ):
        assert float(lines[f'sensorium:{name}_seconds_count{{model_name="tiny-vl"}}']) >= 1, name
    for name in ("prompt_tokens", "generation_tokens", "params_n", "params_max_tokens"):
        assert float(lines[f'sensorium:request_{name}_sum{{model_name="tiny-vl"}}']) >= 2, name
    assert any(line.startswith("sensorium:cache_config_info{") for line in lines)
    of_model, of_kind = '{model_name="tiny-vl"}', '{kind="image",model_name="tiny-vl"}'
    assert float(lines["sensorium:num_requests_running" + of_model]) == 0
    assert float(lines["sensorium:mm_cache_hits_total" + of_model]) >= 1
    assert float(lines["sensorium:step_seconds_count" + of_model]) >= 3
    for stage in ("fetch", "decode", "process", "encode"):
        assert float(lines[f"sensorium:media_{stage}_seconds_count{of_kind}"]) >= 1, stage
    assert float(lines['sensorium:generation_tokens_total{model_name="tiny-vl"}']) >= 3
