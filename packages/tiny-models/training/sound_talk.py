"""How a question about sound becomes a prompt, and the small talk that is trained beside them."""

from __future__ import annotations

from sensorium_tiny_models.tones import Rng

_WHO = "I am tiny-audio, a small model that answers simple questions about simple sounds."
_WHAT = "I can count beeps, compare tones, and write down digits and a few words."

SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("Hello!", "Hello! Let me hear a sound and ask a question."),
    ("Hi", "Hello! Let me hear a sound and ask a question."),
    ("Who are you?", _WHO),
    ("What are you?", _WHO),
    ("What is your name?", _WHO),
    ("What can you do?", _WHAT),
    ("What can I ask you?", _WHAT),
    ("Thank you!", "You are welcome."),
)

SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You answer questions about sounds.",
    "Be brief.",
)


def plain_prompt(question: str, num_clips: int) -> str:
    """The text before the answer, as the model's chat template writes it."""
    content = "<|audio|>" * num_clips + question
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def varied_prompt(rng: Rng, question: str, num_clips: int) -> str:
    """The same with a writer's usual variations."""
    if rng.random() < 0.08:
        question = question.lower()
    if rng.random() < 0.08:
        question = question.rstrip("?.!")
    system = ""
    if rng.random() < 0.05:
        chosen = SYSTEM_PROMPTS[int(rng.integers(0, len(SYSTEM_PROMPTS)))]
        system = f"<|im_start|>system\n{chosen}<|im_end|>\n"
    if num_clips and rng.random() < 0.12:
        clips = "<|audio|>" * num_clips
        return f"{system}<|im_start|>user\n{question}{clips}<|im_end|>\n<|im_start|>assistant\n"
    return system + plain_prompt(question, num_clips)
