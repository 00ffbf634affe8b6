"""Requests for the client: chats with a picture or without one."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from load.client import Ask

QUESTION = "What do you see, and where is it?"
SIDE = 448


def picture_url(seed: int, side: int = SIDE) -> str:
    """A square JPEG as a data URL: soft patches and some grain; of 448×448 about 50 KB."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    soft = np.asarray(patches.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.integers(-12, 13, (side, side, 1), dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_part(seed: int, *, side: int = SIDE, named: bool = False) -> dict[str, Any]:
    """A picture as a part of a message; ``named`` with a uuid."""
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": picture_url(seed, side)}}
    return {**part, "uuid": f"picture-{seed}"} if named else part


def messages(serial: int, part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A conversation of one question, which no other shares to its end."""
    text = {"type": "text", "text": f"{QUESTION} ({serial})"}
    return [{"role": "user", "content": [text] if part is None else [part, text]}]


def ask(conversation: list[dict[str, Any]], num_tokens: int, at_s: float = 0.0) -> Ask:
    """A chat that streams exactly so many tokens."""
    body = {
        "messages": conversation,
        "max_completion_tokens": num_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Ask(json.dumps(body).encode(), at_s)
