"""What a request may say of its media, and what it is told of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image
from served import Served, served

from sensorium import AsyncEngine
from sensorium_server_openai.engine_port import EnginePort
from sensorium_tiny_models import model_path
from sensorium_tiny_models.clips import draw_clip_item
from sensorium_tiny_models.questions import HELD_OUT, item_rng

CHAT = "/v1/chat/completions"
RED = (255, 0, 0)


@pytest.fixture(scope="module")
def trusting(engine: AsyncEngine) -> Iterator[Served]:
    """A server whose requests may bring options, and that says what prompts are made of."""
    port = EnginePort.of(engine, str(model_path()))
    with served(port, trust_mm_kwargs=True, prompt_tokens_details=True) as running:
        yield running


def picture(mode: str, color: tuple[int, ...]) -> str:
    buffer = io.BytesIO()
    Image.new(mode, (84, 56), color).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ask(*urls: str, **fields: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": u}} for u in urls]
    parts.append({"type": "text", "text": "What color is this?"})
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 4}
    return {**body, "logprobs": True, "top_logprobs": 2, **fields}


def seen(server: Served, body: dict[str, Any]) -> list[float]:
    """What the model made of it, as numbers."""
    answer = server.post(CHAT, body)
    assert answer.status_code == 200, answer.text
    content = answer.json()["choices"][0]["logprobs"]["content"]
    return [top["logprob"] for token in content for top in token["top_logprobs"]]


def on_background(*color: int) -> dict[str, Any]:
    return {"media_io_kwargs": {"image": {"rgba_background_color": list(color)}}}


def test_a_request_says_how_its_media_are_read(trusting: Served) -> None:
    clear = picture("RGBA", (0, 0, 0, 0))
    red, white = (seen(trusting, ask(picture("RGB", c))) for c in (RED, (255, 255, 255)))
    assert red != pytest.approx(white, abs=0.2)
    for _ in range(2):  # also from the caches
        assert seen(trusting, ask(clear, **on_background(*RED))) == pytest.approx(red, abs=0.05)
        assert seen(trusting, ask(clear)) == pytest.approx(white, abs=0.05)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (on_background(300, 0, 0), "rgba_background_color"),
        ({"media_io_kwargs": {"image": {"nosuch": 1}}}, "nosuch"),
        ({"media_io_kwargs": {"scent": {}}}, "scent"),
        ({"media_io_kwargs": {"image": 3}}, "image"),
    ],
    ids=range(4),
)
def test_options_that_cannot_hold_are_refused(
    trusting: Served, fields: dict[str, Any], word: str
) -> None:
    answer = trusting.post(CHAT, ask(picture("RGB", RED), **fields))
    assert answer.status_code == 400
    assert word in answer.json()["error"]["message"]


def test_a_stranger_says_nothing_of_how_media_are_read(server: Served) -> None:
    answer = server.post(CHAT, ask(picture("RGB", RED), **on_background(*RED)))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "media_io_kwargs"
    assert "--trust-request-mm-kwargs" in answer.json()["error"]["message"]


def test_usage_says_how_many_tokens_stand_for_media(trusting: Served) -> None:
    one, two = (
        trusting.post(CHAT, ask(*[picture("RGB", RED)] * n)).json()["usage"] for n in (1, 2)
    )
    per_picture = one["prompt_tokens_details"]["multimodal_tokens"]["image"]
    assert per_picture > 0
    assert two["prompt_tokens_details"]["multimodal_tokens"] == {"image": 2 * per_picture}
    assert two["prompt_tokens"] - one["prompt_tokens"] >= per_picture
    text = trusting.post(CHAT, ask()).json()["usage"]["prompt_tokens_details"]
    assert text.keys() == {"cached_tokens"}


def test_a_clip_is_answered_by_its_url_and_then_by_its_uuid_alone(trusting: Served) -> None:
    item = draw_clip_item(item_rng(HELD_OUT, 1, 0), HELD_OUT, "direction", (8, (112, 112)))
    buffer = io.BytesIO()
    first, *others = item.clip
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=500, lossless=True)
    url = "data:video/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    for shown in ({"url": url}, None):
        parts = [
            {"type": "video_url", "video_url": shown, "uuid": "a clip"},
            {"type": "text", "text": item.question},
        ]
        body = {"messages": [{"role": "user", "content": parts}], "temperature": 0}
        answer = trusting.post(CHAT, body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == item.answer
        used = answer.json()["usage"]["prompt_tokens_details"]
        assert used["multimodal_tokens"] == {"video": 4 * 16}
