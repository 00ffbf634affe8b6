"""Questions about pictures, answered by the engine and by transformers in the same process.

    python benchmarks/pictures.py [--count 32] [--repeats 3]

Both use the embedded model in float32 and torch's own number of threads, and both do all of the
work, from the PIL picture to the text. Greedy, 16 new tokens whatever they are. Printed: answers
a second (the median of the repeats), and the engine's ratio to transformers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sensorium import LLM, SamplingParams
from sensorium_tiny_models import model_path
from sensorium_tiny_models.questions import TRAIN, Item
from sensorium_tiny_models.score import draw_items

NEW_TOKENS = 16
GREEDY = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)


def with_engine(llm: LLM, items: Sequence[Item]) -> None:
    """Answers all at once."""
    conversations = []
    for item in items:
        parts: list[dict[str, Any]] = [
            {"type": "image_pil", "image_pil": image} for image in item.images
        ]
        parts.append({"type": "text", "text": item.question})
        conversations.append([{"role": "user", "content": parts}])
    llm.chat(conversations, GREEDY, use_tqdm=False)


class Transformers:
    """The reference: one question at a time, as its ``generate`` takes pictures of mixed sizes."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model_path())
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(model_path())
        self.model = AutoModelForImageTextToText.from_pretrained(
            model_path(), dtype=torch.float32
        ).eval()

    def answer(self, item: Item) -> None:
        """One question, from its pictures to its text."""
        pixels = self.processor(list(item.images), return_tensors="pt")
        parts = [*({"type": "image"} for _ in item.images), {"type": "text", "text": item.question}]
        prompt = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        first, *rest = prompt.split("<|image_pad|>")
        for grid, piece in zip(pixels["image_grid_thw"], rest, strict=True):
            first += "<|image_pad|>" * (int(grid.prod()) // 4) + piece
        ids = self.tokenizer(first, return_tensors="pt").input_ids
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == self.model.config.image_token_id).int(),
                **pixels,
                do_sample=False,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
            )
        self.tokenizer.decode(out[0, ids.shape[1] :])


def one_by_one(answer: Callable[[Item], None]) -> Callable[[Sequence[Item]], None]:
    """Answers each item before the next is begun."""

    def work(items: Sequence[Item]) -> None:
        for item in items:
            answer(item)

    return work


def rate(work: Callable[[Sequence[Item]], None], count: int, repeats: int) -> float:
    """Answers a second: the median over repeats, each with pictures of its own."""
    work(draw_items(TRAIN, -1, "color", 2))
    rates = []
    for repeat in range(repeats):
        items = draw_items(TRAIN, repeat, "color", count)
        start = time.perf_counter()
        work(items)
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates)


def theirs(count: int, repeats: int) -> float:
    """transformers' rate."""
    return rate(one_by_one(Transformers().answer), count, repeats)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    # In a thread that ends before the engine begins: two sets of OpenMP's helpers in one process
    # slow each other down even while one of them is idle.
    with ThreadPoolExecutor(1) as thread:
        peer = thread.submit(theirs, options.count, options.repeats).result()
    with LLM(model_path(), device="cpu", dtype="float32") as llm:
        alone = one_by_one(lambda item: with_engine(llm, [item]))
        one = rate(alone, options.count, options.repeats)
        many = rate(lambda items: with_engine(llm, items), options.count, options.repeats)
    print(f"{torch.get_num_threads()} threads, {options.count} questions, {NEW_TOKENS} new tokens")
    print("| what | answers/s | ratio |\n| --- | ---: | ---: |")
    for name, value in (
        ("transformers, one at a time", peer),
        ("engine, one at a time", one),
        ("engine, all at once", many),
    ):
        print(f"| {name} | {value:.1f} | {value / peer:.2f} |")


if __name__ == "__main__":
    main()
