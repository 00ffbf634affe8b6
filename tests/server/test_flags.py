"""Flags of `sensorium serve` as clients feel them, each held against a server without it.

Those of keys, limits and TLS have tests of their own.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hostile_server import HostileServer, answer, redirect
from http_threats import png
from PIL import Image
from scripted_engine import until
from served import Served, served_as

from sensorium_tiny_models import model_path

CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"
BY_HAND = "<|vision_start|><|image_pad|><|vision_end|>"


def serving(*arguments: str) -> Any:
    return served_as(model_path(), "--max-model-len", "2048", *arguments)


def picture(color: str = "red", **more: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (168, 112), color).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}, **more}


def about(*parts: dict[str, Any] | str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def refusal(server: Served, path: str, body: dict[str, Any]) -> str:
    """The sentence with which a request is refused."""
    response = server.post(path, body)
    assert response.status_code == 400, response.text
    message: str = response.json()["error"]["message"]
    return message


def token_ids(server: Served, *parts: dict[str, Any] | str) -> list[int]:
    found: list[int] = server.post(TOKENIZE, about(*parts)).json()["tokens"]
    return found


def figure(server: Served, name: str) -> float:
    """One of ``/metrics``."""
    with server.client() as client:
        text = client.get("/metrics").text
    found = re.search(rf"^sensorium:{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """A server with many flags, whose effects don't meet."""
    with serving(
        *(
            "--interleave-mm-strings",
            "--max-logprobs",
            "3",
        ),
        *("--limit-mm-per-prompt", '{"image": 1}'),
        *("--mm-processor-kwargs", '{"max_pixels": 12544}'),
        *("--mm-processor-cache-gb", "0", "--no-enable-prefix-caching"),
        *("--max-num-batched-tokens", "16", "--allow-private-media-hosts"),
        *("--allowed-media-domains", "*.example.org", "--no-media-url-allow-redirects"),
    ) as server:
        yield server


# --- chats ----------------------------------------------------------------------------


def test_text_may_carry_placeholders_where_the_operator_lets_it(
    strict: Served, server: Served
) -> None:
    by_hand = (picture(), f"Here {BY_HAND} it is.")
    in_place = token_ids(strict, "Here ", picture(), " it is.")
    assert token_ids(strict, *by_hand) == in_place
    in_front = token_ids(server, *by_hand)
    assert len(in_front) > len(token_ids(server, "Here ", picture(), " it is.")), "text is text"
    assert strict.post(CHAT, {**about(*by_hand), "max_tokens": 1}).status_code == 200
    two = about(picture(), f"{BY_HAND} and {BY_HAND}")
    assert "2 placeholders of kind image for 1 items" in refusal(strict, CHAT, two)
    assert server.post(CHAT, {**two, "max_tokens": 1}).status_code == 200


def test_a_template_and_the_form_of_its_contents() -> None:
    """``openai`` shows a template the parts of a message; this one alone would be shown a text."""
    template = "{{ 'one text' if messages[0].content is string else 'several parts' }}"
    arguments = ("--chat-template", template, "--chat-template-content-format", "openai")
    with serving(*arguments) as server:
        told = server.post("/detokenize", {"tokens": token_ids(server, "Hi", "you")}).json()
    assert told == {"prompt": "several parts"}


# --- log-probabilities ----------------------------------------------------------------

ASK_CHAT = {**about("Hi"), "max_tokens": 1, "temperature": 0}
#: Tokens by their ids: several of them may have one text.
ASK_TEXT = {"prompt": "It is red", "max_tokens": 1, "return_tokens_as_token_ids": True}
ASK_TEXT["temperature"] = 0


def num_reported(server: Served, path: str, name: str, wanted: int) -> int:
    """How many log-probabilities an answer has at its last place."""
    of_chat = path == CHAT
    ask: dict[str, Any] = {**(ASK_CHAT if of_chat else ASK_TEXT), name: wanted}
    if name == "top_logprobs":
        ask["logprobs"] = True
    response = server.post(path, ask)
    assert response.status_code == 200, response.text
    body = response.json()
    [choice] = body["choices"]
    if name == "prompt_logprobs":
        found = body if of_chat else choice
        return len(found["prompt_logprobs"][-1])
    if of_chat:
        return len(choice["logprobs"]["content"][-1]["top_logprobs"])
    return len(choice["logprobs"]["top_logprobs"][-1])


FIELDS = [
    (CHAT, "top_logprobs"),
    (CHAT, "prompt_logprobs"),
    (COMPLETIONS, "logprobs"),
    (COMPLETIONS, "prompt_logprobs"),
]


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_log_probabilities_up_to_the_bound(
    strict: Served, server: Served, path: str, name: str
) -> None:
    for running, bound in ((strict, 3), (server, 20)):
        # The token that was chosen, or that the prompt has, is among them or comes beside them.
        assert num_reported(running, path, name, bound) in (bound, bound + 1)
        for wanted in (bound + 1, -1):
            ask: dict[str, Any] = {**(ASK_CHAT if path == CHAT else ASK_TEXT), name: wanted}
            if name == "top_logprobs":
                ask["logprobs"] = True
            message = refusal(running, path, ask)
            assert f"is {wanted}; this engine reports {bound} at most" in message
            assert "max_logprobs" in message


def test_log_probabilities_of_the_whole_vocabulary_where_there_is_no_bound() -> None:
    size = json.loads((model_path() / "config.json").read_text())["vocab_size"]
    with serving("--max-logprobs", "-1") as server:
        for path, name in FIELDS:
            assert num_reported(server, path, name, -1) == size, (path, name)
            assert num_reported(server, path, name, 30) in (30, 31)


# --- media ----------------------------------------------------------------------------


def test_so_many_items_a_prompt(strict: Served, server: Served) -> None:
    two = {**about(picture(), picture("blue"), "Which?"), "max_tokens": 1}
    message = refusal(strict, CHAT, two)
    assert "2" in message
    assert "image" in message
    assert server.post(CHAT, two).status_code == 200


def test_options_of_the_processor(strict: Served, server: Served) -> None:
    """Of at most 112×112 pixels a picture of 168×112 takes fewer tokens."""
    assert len(token_ids(strict, picture(), "x")) < len(token_ids(server, picture(), "x"))


def test_without_caches_a_name_stands_for_nothing(strict: Served, server: Served) -> None:
    named = picture(uuid="a red one")
    for running in (strict, server):
        assert running.post(CHAT, {**about(named), "max_tokens": 1}).status_code == 200
    by_name = {**about({"type": "image_url", "uuid": "a red one"}), "max_tokens": 1}
    assert server.post(CHAT, by_name).status_code == 200
    assert "image" in refusal(strict, CHAT, by_name)


def test_hosts_and_redirects_that_the_operator_allows(strict: Served) -> None:
    def ask(url: str) -> dict[str, Any]:
        return {**about({"type": "image_url", "image_url": {"url": url}}), "max_tokens": 1}

    asked: list[str] = []
    with HostileServer() as origin:
        origin.scripts["/x"] = lambda request, _: asked.append(request.target)
        message = refusal(strict, CHAT, ask(origin.url("/x")))
        assert asked == []
        assert "allowed_media_domains" in message
        allowing = ("--allowed-media-domains", "127.0.0.1", "--allow-private-media-hosts")
        with serving(*allowing, "--no-media-url-allow-redirects") as server:
            origin.scripts["/x"] = answer(png())
            origin.scripts["/to"] = redirect("/x")
            assert server.post(CHAT, ask(origin.url("/x"))).status_code == 200
            message = refusal(server, CHAT, ask(origin.url("/to")))
            assert "redirect" in message


def test_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The origin answers nothing, so that waiting for the time limit is waiting for it alone."""
    monkeypatch.setenv("SENSORIUM_IMAGE_FETCH_TIMEOUT", "0.25")
    monkeypatch.setenv("SENSORIUM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    with HostileServer() as origin, serving("--allow-private-media-hosts") as server:
        origin.scripts["/silent"] = lambda _, connection: connection.recv(1) and None
        origin.scripts["/to"] = redirect("/x")

        def ask(path: str) -> Any:
            shown = {"type": "image_url", "image_url": {"url": origin.url(path)}}
            return server.post(CHAT, {**about(shown), "max_tokens": 1})

        late, led = ask("/silent"), ask("/to")
    assert late.status_code == 424
    assert "0.25 s" in late.json()["error"]["message"]
    assert led.status_code == 400
    assert "redirect" in led.json()["error"]["message"]


# --- the engine -----------------------------------------------------------------------


def test_steps_and_caches_have_the_operators_sizes(strict: Served, server: Served) -> None:
    """A prompt of 300 words is computed 16 tokens a step, each time anew."""
    ask = {"prompt": "red " * 300, "max_tokens": 1}
    taken = {}
    for running in (strict, server):
        running.post(COMPLETIONS, ask)
        before = figure(running, "step_seconds_count"), figure(running, "prefix_cache_hits_total")
        used = running.post(COMPLETIONS, ask).json()["usage"]
        steps = figure(running, "step_seconds_count") - before[0]
        hits = figure(running, "prefix_cache_hits_total") - before[1]
        taken[running.port] = steps, hits > 0
        assert used["prompt_tokens"] >= 300
    assert taken[strict.port][0] >= 300 / 16
    assert taken[strict.port][1] is False
    assert taken[server.port][0] < 300 / 16
    assert taken[server.port][1] is True


async def test_one_runs_one_waits_and_one_is_turned_away() -> None:
    """The one that waits goes away before it has run, and leaves nothing."""
    endless = {**about("Go on"), "stream": True, "ignore_eos": True}
    flags = ("--max-num-seqs", "1", "--max-queued-requests", "1")
    with serving(*flags) as server:
        first = server.send("POST", CHAT, endless)
        assert first.recv(10)
        second = server.send("POST", CHAT, endless)
        await until(lambda: figure(server, "num_requests_waiting") == 1)
        assert figure(server, "num_requests_running") == 1
        refused = server.post(CHAT, endless)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == 429
        second.close()
        await until(lambda: figure(server, "num_requests_waiting") == 0)
        first.close()
        await until(lambda: server.gate.running == 0)
        assert server.post(CHAT, {**about("Hi"), "max_tokens": 1}).status_code == 200


def test_weights_and_draws_of_a_seed() -> None:
    """Random weights and what is drawn by requests without a seed are the seed's."""
    ask = {**ASK_TEXT, "max_tokens": 6, "temperature": 3, "return_token_ids": True}
    drawn, greedy = [], []
    for seed in ("1", "1", "2"):
        with serving("--load-format", "dummy", "--seed", seed) as server:
            [choice] = server.post(COMPLETIONS, {**ask, "temperature": 0}).json()["choices"]
            greedy.append(choice["token_ids"])
            [choice] = server.post(COMPLETIONS, ask).json()["choices"]
            drawn.append(choice["token_ids"])
    for first, again, other in (greedy, drawn):
        assert first == again != other


def test_a_model_is_loaded_to_embed() -> None:
    with serving("--runner", "pooling") as server:
        assert server.post("/v1/embeddings", {"input": "Hi"}).status_code == 200
        assert server.post(CHAT, about("Hi")).status_code == 404
