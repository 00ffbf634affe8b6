"""Accuracy by question type, inside training: one pass per item with the answer as input.

The published figures come from generation, not from here; both give the same numbers, because
greedy decoding yields an answer exactly where every one of its tokens is the likeliest.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from batches import Batch, group
from data import UNIT, Encoder, fit
from decoder import Forward, exact

from sensorium_tiny_models.questions import QUESTION_TYPES, SIZES, Item, draw_item, item_rng

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def draw(split: str, seed: int, per_type: int) -> list[Item]:
    """A fixed set of items, in a few picture sizes only, so that there are few batches."""
    return [
        draw_item(
            item_rng(split, seed, index * len(QUESTION_TYPES) + row),
            split,
            question_type,
            SIZES[index % 5],
        )
        for index in range(per_type)
        for row, question_type in enumerate(QUESTION_TYPES)
    ]


def batches(items: list[Item], encoder: Encoder, most: int = 256) -> list[tuple[list[int], Batch]]:
    """Items of one size and one number of pictures together, with their numbers."""
    buckets: dict[tuple[tuple[int, int], int], list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        width, height = item.images[0].size
        fitted = (round(width / UNIT) * UNIT, round(height / UNIT) * UNIT)
        buckets[fitted, len(item.images)].append(number)
    result = []
    for (size, num_images), numbers in buckets.items():
        for start in range(0, len(numbers), most):
            part = numbers[start : start + most]
            rows, pictures = [], []
            for number in part:
                item = items[number]
                prompt = (
                    f"<|im_start|>user\n{IMAGE * num_images}{item.question}<|im_end|>\n"
                    "<|im_start|>assistant\n"
                )
                rows.append(encoder.row(prompt, item.answer, size))
                pictures += [np.asarray(fit(image, size)) for image in item.images]
            result.append(
                (part, Batch([group(rows, encoder.image_id, len(pictures))], np.stack(pictures)))
            )
    return result


@torch.no_grad()
def accuracy(
    forward: Forward, items: list[Item], prepared: list[tuple[list[int], Batch]]
) -> dict[str, float]:
    """Share of exact answers by question type, and for digits and words by font."""
    right: dict[str, list[bool]] = defaultdict(list)
    for numbers, batch in prepared:
        for number, flag in zip(numbers, exact(forward, batch), strict=True):
            item = items[number]
            right[item.question_type].append(flag)
            if item.font_id and item.question_type == "digits":
                right[f"digits/{item.font_id}"].append(flag)
    return {name: sum(flags) / len(flags) for name, flags in sorted(right.items())}
