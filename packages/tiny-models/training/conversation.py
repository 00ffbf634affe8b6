"""How an item becomes a conversation, and the small talk that is trained beside the items."""

from __future__ import annotations

import random

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
CLIP = "<|vision_start|><|video_pad|><|vision_end|>"

_WHO = "I am tiny-vl, a small model that answers simple questions about simple pictures."
_WHAT = "I can name shapes and colors, count up to six, and read short words and numbers."

SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("Hello!", "Hello! Show me a picture and ask a question."),
    ("Hi", "Hello! Show me a picture and ask a question."),
    ("Who are you?", _WHO),
    ("What are you?", _WHO),
    ("What is your name?", _WHO),
    ("What can you do?", _WHAT),
    ("What can I ask you?", _WHAT),
    ("Thank you!", "You are welcome."),
)

SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You answer questions about pictures.",
    "Be brief.",
)


def prompt(rng: random.Random, question: str, num_items: int, placeholder: str = IMAGE) -> str:
    """The text before the answer, with a reader's usual variations."""
    if rng.random() < 0.08:
        question = question.lower()
    if rng.random() < 0.08:
        question = question.rstrip("?.!")
    shown = placeholder * num_items
    content = question + shown if num_items and rng.random() < 0.12 else shown + question
    system = ""
    if rng.random() < 0.05:
        system = f"<|im_start|>system\n{rng.choice(SYSTEM_PROMPTS)}<|im_end|>\n"
    return f"{system}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
