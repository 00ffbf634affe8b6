"""Requests for the client: chats with a picture or without one."""

from __future__ import annotations

import base64
import functools
import io
import json
from typing import Any

import numpy as np
from pages import page
from PIL import Image

from load.client import Ask

QUESTION = "What do you see, and where is it?"
SIDE = 448
#: Files for media threads → as many of them as are asked for at most.
MOST_FILES = {
    "JPEG 1920×1080": 600,
    "PNG page 1275×1650": 200,
    "WebP 1920×1080": 400,
    "JPEG 320×240": 4000,
}


def picture_url(seed: int, side: int = SIDE) -> str:
    """A square JPEG as a data URL; of 448×448 about 50 KB."""
    return data_url("jpeg", jpeg(seed, side, side))


def data_url(kind: str, file: bytes) -> str:
    """A picture's file as a URL."""
    return f"data:image/{kind};base64," + base64.b64encode(file).decode()


def jpeg(seed: int, width: int, height: int) -> bytes:
    """A drawn picture's file."""
    return _drawn_file("JPEG", seed, width, height)


def _drawn_file(form: str, seed: int, width: int, height: int) -> bytes:
    """Soft patches and some grain."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    soft = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(buffer, form, quality=85)
    return buffer.getvalue()


@functools.cache
def some_files(name: str) -> tuple[bytes, ...]:
    """A few of ``MOST_FILES``."""
    kind, _, size = name.rpartition(" ")
    width, height = (int(side) for side in size.split("×"))
    seeds = range(8)
    if "PNG" in kind:
        return tuple(page(i) for i in seeds)
    return tuple(_drawn_file(kind, i, width, height) for i in seeds)


def file_ask(name: str, serial: int) -> Ask:
    """One token about one of ``MOST_FILES``, behind whose end a few bytes tell it from others."""
    files = some_files(name)
    file = files[serial % len(files)] + serial.to_bytes(8)
    url = data_url(name.partition(" ")[0].lower(), file)
    part = {"type": "image_url", "image_url": {"url": url}}
    return ask(messages(serial, part), 1)


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
