"""Training batches of sound, drawn on the fly by worker processes.

All clips of a batch last equally long, so that the encoder runs on one rectangular block of
spectrograms. A batch holds dry sounds; ``sound_room.py`` makes clips of them on the device.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import sound_talk
from batches import Batch, Drawers, Row, group
from numpy.typing import NDArray
from sound_files import AUDIO, NUM_MEL_BINS
from tokenizers import Tokenizer

from sensorium_media_audio.chunks import chunk_tokens
from sensorium_media_audio.mel import HOP, RATE, log_mel
from sensorium_tiny_models.hearing import SPOKEN, TRAIN, TWO_CLIPS, Item, draw_item
from sensorium_tiny_models.spoken import Speaker
from sensorium_tiny_models.tones import Rng, Samples

STACK = 8
#: Spectrogram frames of a batch's clips. Not all fill their last token.
FRAMES = (150, 176, 200, 232, 256, 290, 320, 360, 400)
#: How often each type is drawn; the types that need most practice come most often.
WEIGHTS = {
    "beeps": 1.4, "direction": 0.6, "tempo": 1.0, "longer": 0.7, "higher": 0.7, "digits": 2.6,
    "words": 2.6, "which": 1.4,
}  # fmt: skip
SMALL_TALK_SHARE = 0.012
#: Room for text in a row beside its clips' tokens, and for answer tokens per row on average.
MOST_TEXT, MOST_ANSWER = 64, 12


@dataclass(slots=True)
class Encoder:
    """Turns text with placeholders into rows, for clips of one length."""

    tokenizer: Tokenizer
    audio_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.audio_id = self.tokenizer.token_to_id(AUDIO)

    def row(self, prompt: str, answer: str, frames: int) -> Row:
        """A row whose placeholders stand for as many tokens as so many frames make."""
        num_tokens = chunk_tokens(frames, STACK)
        ids: list[int] = []
        for token in self.tokenizer.encode(prompt, add_special_tokens=False).ids:
            ids += [token] * (num_tokens if token == self.audio_id else 1)
        answer_ids = self.tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False).ids
        ids += answer_ids
        return Row(ids, len(answer_ids), np.tile(np.arange(len(ids)), (3, 1)))


def spectrogram(clip: Samples) -> NDArray[np.float16]:
    """(frames, bins), as the engine makes it."""
    return log_mel(clip, NUM_MEL_BINS).numpy().astype(np.float16)


def stored(sound: Samples) -> NDArray[np.int16]:
    """A dry sound as a batch holds it: its peak is full scale."""
    return np.asarray(sound * (32_767 / np.abs(sound).max()), dtype=np.int16)


def start_drawers(
    encoder: Encoder,
    speaker: Speaker | None,
    num_workers: int,
    num_items: int,
    seed: str,
    types: tuple[str, ...],
) -> Drawers:
    """Worker processes that draw batches of ``num_items`` questions of these types."""
    num_one, num_two, _ = shares(num_items, types)
    room = (num_one + 2 * num_two) * max(FRAMES) * HOP
    draw = partial(draw_batch, encoder, speaker, num_items, types)
    return Drawers(draw, num_workers, seed, room, np.int16)


def draw_batch(
    encoder: Encoder,
    speaker: Speaker | None,
    num_items: int,
    types: tuple[str, ...],
    chance: random.Random,
    out: NDArray[np.int16],
) -> Batch:
    """Draws a batch whose shapes follow from its clips' length alone; dry sounds go to ``out``.

    Each sound has room for as many samples as its clip will have; behind it are zeros. The share of
    questions with two clips is that of their weights, the same in every batch.
    """
    rng = np.random.default_rng(chance.getrandbits(64))
    frames = FRAMES[int(rng.integers(0, len(FRAMES)))]
    num_one, num_two, num_talk = shares(num_items, types)
    sounds: list[Samples] = []
    one = [_item_row(rng, encoder, speaker, name, frames, sounds)
           for name in _names(rng, types, num_one, two=False)]  # fmt: skip
    talk = [_talk_row(rng, encoder, frames) for _ in range(num_talk)]
    two = [_item_row(rng, encoder, speaker, name, frames, sounds)
           for name in _names(rng, types, num_two, two=True)]  # fmt: skip
    tokens = chunk_tokens(frames, STACK)
    groups = [
        group(rows, encoder.audio_id, num_clips, most, len(rows) * MOST_ANSWER)
        for rows, num_clips, most in (
            (one + talk, num_one, tokens + MOST_TEXT),
            (two, 2 * num_two, 2 * tokens + MOST_TEXT),
        )
        if rows
    ]
    block = out[: len(sounds) * frames * HOP].reshape(len(sounds), frames * HOP)
    for row, sound in zip(block, sounds, strict=True):
        row[: len(sound)] = stored(sound)
        row[len(sound) :] = 0
    return Batch(groups, block)


def shares(num_items: int, types: tuple[str, ...]) -> tuple[int, int, int]:
    """How many questions of a batch have one clip, two, and none."""
    num_talk = max(1, round(num_items * SMALL_TALK_SHARE))
    weight = sum(WEIGHTS[name] for name in types)
    two = sum(WEIGHTS[name] for name in types if name in TWO_CLIPS)
    num_two = round((num_items - num_talk) * two / weight)
    return num_items - num_talk - num_two, num_two, num_talk


def _names(rng: Rng, types: tuple[str, ...], count: int, *, two: bool) -> list[str]:
    names = [name for name in types if (name in TWO_CLIPS) == two]
    if not names:
        return []
    weights = np.array([WEIGHTS[name] for name in names])
    return [str(name) for name in rng.choice(names, count, p=weights / weights.sum())]


def _item_row(
    rng: Rng,
    encoder: Encoder,
    speaker: Speaker | None,
    name: str,
    frames: int,
    sounds: list[Samples],
) -> Row:
    item = draw(rng, name, frames, speaker, dry=True)
    sounds += item.clips
    room = len(item.clips) * chunk_tokens(frames, STACK) + MOST_TEXT
    while True:
        prompt = sound_talk.varied_prompt(rng, item.question, len(item.clips))
        row = encoder.row(prompt, item.answer, frames)
        if len(row.ids) <= room:
            return row


def draw(
    rng: Rng,
    name: str,
    frames: int,
    speaker: Speaker | None,
    split: str = TRAIN,
    *,
    dry: bool = False,
) -> Item:
    """A question whose clips make exactly so many frames."""
    speaker = speaker if name in SPOKEN else None
    return draw_item(rng, split, name, frames * HOP / RATE, speaker, dry=dry)


def _talk_row(rng: Rng, encoder: Encoder, frames: int) -> Row:
    question, answer = sound_talk.SMALL_TALK[int(rng.integers(0, len(sound_talk.SMALL_TALK)))]
    return encoder.row(sound_talk.varied_prompt(rng, question, 0), answer, frames)
