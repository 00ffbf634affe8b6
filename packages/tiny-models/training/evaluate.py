"""Accuracy by question type, inside training: one pass per item with the answer as input.

The published figures come from generation, not from here; both give the same numbers, because
greedy decoding yields an answer exactly where every one of its tokens is the likeliest.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from batches import Batch, group
from conversation import CLIP, IMAGE
from data import SPAN, UNIT, Encoder, fit
from decoder import Forward, exact

from sensorium_tiny_models.clips import CLIP_FORMS, CLIP_TYPES, draw_clip_item
from sensorium_tiny_models.questions import QUESTION_TYPES, SIZES, Item, draw_item, item_rng


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


def draw_clips(split: str, seed: int, per_type: int) -> list[Item]:
    """The same of clips."""
    return [
        draw_clip_item(
            item_rng(f"clips/{split}", seed, index * len(CLIP_TYPES) + row),
            split,
            question_type,
            CLIP_FORMS[index % len(CLIP_FORMS)],
        )
        for index in range(per_type)
        for row, question_type in enumerate(CLIP_TYPES)
    ]


@dataclass(frozen=True, slots=True)
class _Form:
    """What items of one batch have in common; no frames: pictures."""

    size: tuple[int, int]
    num_items: int
    num_frames: int

    @classmethod
    def of(cls, item: Item) -> _Form:
        width, height = (item.clip or item.images)[0].size
        fitted = (round(width / UNIT) * UNIT, round(height / UNIT) * UNIT)
        return cls(fitted, len(item.images) or 1, len(item.clip))


def batches(items: list[Item], encoder: Encoder, most: int = 256) -> list[tuple[list[int], Batch]]:
    """Items of one form together, with their numbers."""
    buckets: dict[_Form, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        buckets[_Form.of(item)].append(number)
    return [
        (part, _batch([items[number] for number in part], form, encoder))
        for form, numbers in buckets.items()
        for start in range(0, len(numbers), most)
        if (part := numbers[start : start + most])
    ]


def _batch(items: list[Item], form: _Form, encoder: Encoder) -> Batch:
    placeholder = CLIP if form.num_frames else IMAGE
    rows, media = [], []
    for item in items:
        prompt = (
            f"<|im_start|>user\n{placeholder * form.num_items}{item.question}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        rows.append(encoder.row(prompt, item.answer, form.size, form.num_frames or SPAN))
        shown = [np.asarray(fit(image, form.size)) for image in item.clip or item.images]
        media += [np.stack(shown)] if form.num_frames else shown
    item_id = encoder.video_id if form.num_frames else encoder.image_id
    return Batch([group(rows, item_id, len(media))], np.stack(media))


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
