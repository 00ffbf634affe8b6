"""Accuracy of tiny-audio by question type, inside training: one pass with the answers as input."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import sound_talk
import torch
from batches import Batch, group
from decoder import Forward, exact
from sound_data import FRAMES, Encoder, draw, spectrogram

from sensorium_tiny_models.hearing import item_rng
from sensorium_tiny_models.spoken import Speaker

#: (question type, its batch), of clips of one length each.
TestSet = list[tuple[str, Batch]]


def draw_set(
    encoder: Encoder,
    speaker: Speaker | None,
    split: str,
    per_type: int,
    types: tuple[str, ...],
) -> TestSet:
    """The same questions for the same arguments, in three lengths of clip."""
    result = []
    for name in types:
        for frames in FRAMES[2::3]:
            rows, mels = [], []
            for index in range(-(-per_type // 3)):
                rng = item_rng(f"{split}/{name}/{frames}", 101, index)
                item = draw(rng, name, frames, speaker, split)
                prompt = sound_talk.plain_prompt(item.question, len(item.clips))
                rows.append(encoder.row(prompt, item.answer, frames))
                mels += [spectrogram(clip) for clip in item.clips]
            one = group(rows, encoder.audio_id, len(mels))
            result.append((name, Batch([one], np.stack(mels))))
    return result


@torch.no_grad()
def accuracy(forward: Forward, items: TestSet) -> dict[str, float]:
    """Share of exact answers by question type."""
    right: dict[str, list[bool]] = defaultdict(list)
    for name, batch in items:
        right[name] += exact(forward, batch)
    return {name: sum(flags) / len(flags) for name, flags in right.items()}
