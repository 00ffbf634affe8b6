"""What the threats over HTTP have in common."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from served import Served

CHAT = "/v1/chat/completions"


def png(size: tuple[int, int] = (56, 56), color: tuple[int, int, int] = (9, 99, 200)) -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def picture(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, **more}


def asking(*parts: dict[str, Any], text: str = "What is it?", **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text}, *parts]
    return {
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_completion_tokens": 6,
        **fields,
    }


def assert_refused(server: Served, body: Any, *, word: str = "") -> str:
    """400 with a sentence that says nothing of our insides; others are served as before."""
    response = server.post(CHAT, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] == 400
    message = str(error["message"])
    assert word in message
    assert len(message) < 500
    assert "Traceback" not in message
    assert " 0x" not in message
    assert server.post(CHAT, asking(picture(data_url(png())))).status_code == 200
    return message
