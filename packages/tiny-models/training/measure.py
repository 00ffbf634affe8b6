"""Accuracy by question type, by greedy generation: with the project's engine, or with transformers.

    python measure.py --count 400 [--types moving] [--split heldout] [--seed 2026]
        [--with transformers]

Prints the table of the model's card: the plain score, the two controls, and the blind guesser.
transformers runs in float32 on the CPU, one item at a time, with its own PIL image processor; it is
not asked about clips, whose times it gives other positions than the engine and the training.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from sensorium_tiny_models import model_path
from sensorium_tiny_models.clips import CLIP_TYPES
from sensorium_tiny_models.questions import HELD_OUT, SPLITS, Item
from sensorium_tiny_models.score import ALL_TYPES, Answerer, accuracy, draw_items, measure, table


def with_engine() -> Answerer:
    """Answers by `LLM.chat`."""
    from sensorium import LLM
    from sensorium_tiny_models.demo import answers

    llm = LLM(model=str(model_path()), dtype="float32")
    return lambda items: answers(llm, items)


def with_transformers() -> Answerer:
    """Answers by `generate`."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    processor = Qwen2VLImageProcessorPil.from_pretrained(model_path())
    model = AutoModelForImageTextToText.from_pretrained(model_path(), dtype=torch.float32).eval()

    def one(item: Item) -> str:
        pixels = processor(list(item.images), return_tensors="pt")
        parts = [*({"type": "image"} for _ in item.images), {"type": "text", "text": item.question}]
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        pieces = prompt.split("<|image_pad|>")
        text = pieces[0]
        for grid, piece in zip(pixels["image_grid_thw"], pieces[1:], strict=True):
            text += "<|image_pad|>" * (int(grid.prod()) // 4) + piece
        ids = tokenizer(text, return_tensors="pt").input_ids
        kinds = (ids == model.config.image_token_id).int()
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds,
                **pixels, max_new_tokens=48, do_sample=False,
            )  # fmt: skip
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    def answer(items: Sequence[Item]) -> list[str]:
        return [one(item) for item in items]

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure tiny-vl.")
    parser.add_argument("--count", type=int, default=400, help="items a type")
    parser.add_argument("--split", choices=SPLITS, default=HELD_OUT)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--types", nargs="+", choices=ALL_TYPES, default=ALL_TYPES)
    parser.add_argument("--with", dest="by", choices=("engine", "transformers"), default="engine")
    parser.add_argument("--plain", action="store_true", help="no controls")
    options = parser.parse_args()
    if options.by == "transformers" and set(options.types) & set(CLIP_TYPES):
        parser.error("--with transformers asks about pictures alone; name their types by --types")
    answer = with_engine() if options.by == "engine" else with_transformers()
    begun = time.monotonic()
    if options.plain:
        for name in options.types:
            items = draw_items(options.split, options.seed, name, options.count)
            print(f"{name} {100 * accuracy(items, answer(items)):.1f}", flush=True)
    else:
        rows = measure(answer, options.split, options.seed, options.count, options.types)
        print(table(rows))
    print(f"{options.split}, seed {options.seed}: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
