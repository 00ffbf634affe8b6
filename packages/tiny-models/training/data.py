"""Training batches, drawn on the fly by worker processes.

All pictures of a batch are brought to one size, so that the tower runs on one rectangular block.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial

import conversation
import numpy as np
from batches import Batch, Drawers, Row, group
from numpy.typing import NDArray
from PIL import Image
from strangers import strange_color, strange_shape
from tokenizers import Tokenizer

from sensorium_tiny_models.questions import SIZES, TRAIN, Item, draw_item

UNIT = 28  # pixels per side of one image token: two patches of 14

# How often each type is drawn; the types that need most practice come most often.
WEIGHTS = {
    "color": 1.8, "shape": 2.2, "count": 1.6, "position": 0.7, "relation": 0.9,
    "describe": 2.2, "digits": 2.8, "words": 3.6,
}  # fmt: skip
TWO_PICTURES_SHARE, SMALL_TALK_SHARE = 0.12, 0.012
# How many of the colour and shape questions are about strange shapes and colours.
STRANGERS_SHARE = 0.6

# Room for text in a row beside its image tokens, and for answer tokens per row on average.
MOST_TEXT, MOST_ANSWER = 52, 11


@dataclass(slots=True)
class Encoder:
    """Turns text with placeholders into rows, for pictures of one size."""

    tokenizer: Tokenizer
    image_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.image_id = self.tokenizer.token_to_id("<|image_pad|>")

    def row(self, prompt: str, answer: str, size: tuple[int, int]) -> Row:
        """`size` is (width, height) in pixels, multiples of `UNIT`."""
        columns, rows = size[0] // UNIT, size[1] // UNIT
        ids: list[int] = []
        parts: list[NDArray[np.int64]] = []
        start = 0
        for token in self.tokenizer.encode(prompt, add_special_tokens=False).ids:
            if token == self.image_id:
                ids += [token] * (rows * columns)
                parts.append(_grid_positions(start, rows, columns))
                start += max(rows, columns)
            else:
                ids.append(token)
                parts.append(np.full((3, 1), start))
                start += 1
        answer_ids = self.tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False).ids
        parts.append(np.tile(np.arange(start, start + len(answer_ids)), (3, 1)))
        return Row(ids + answer_ids, len(answer_ids), np.concatenate(parts, axis=1))


def _grid_positions(start: int, rows: int, columns: int) -> NDArray[np.int64]:
    time = np.zeros((rows, columns), dtype=np.int64)
    down, right = np.indices((rows, columns))
    return np.stack([time, down, right]).reshape(3, -1) + start


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize as the family's image processor does."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def start_drawers(encoder: Encoder, num_workers: int, num_items: int, seed: str) -> Drawers:
    """Worker processes that draw batches of ``num_items`` questions."""
    room = int(num_items * 1.5 * max(w * h for w, h in SIZES) * 3)
    return Drawers(partial(draw_batch, encoder, num_items), num_workers, seed, room)


def draw_batch(
    encoder: Encoder, num_items: int, rng: random.Random, out: NDArray[np.uint8]
) -> Batch:
    """Draw a batch whose shapes follow from the picture size alone; pictures go into `out`."""
    size = rng.choice(SIZES)
    num_two = round(num_items * TWO_PICTURES_SHARE)
    num_talk = max(1, round(num_items * SMALL_TALK_SHARE))
    num_one = num_items - num_two - num_talk
    types = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=num_one)
    pictures: list[Image.Image] = []
    talk = [_talk_row(rng, encoder) for _ in range(num_talk)]
    rows = [_item_row(rng, encoder, one, size, pictures) for one in types]
    pairs = [_item_row(rng, encoder, "compare", size, pictures) for _ in range(num_two)]
    image_tokens = (size[0] // UNIT) * (size[1] // UNIT)
    image_id = encoder.image_id
    first = group(
        rows + talk, image_id, num_one, image_tokens + MOST_TEXT, (num_one + num_talk) * MOST_ANSWER
    )
    second = group(
        pairs, image_id, 2 * num_two, 2 * image_tokens + MOST_TEXT, num_two * MOST_ANSWER
    )
    shape = (len(pictures), size[1], size[0], 3)
    block = out[: int(np.prod(shape))].reshape(shape)
    for i, picture in enumerate(pictures):
        block[i] = np.asarray(picture)
    return Batch([first, second], block)


def _item_row(
    rng: random.Random,
    encoder: Encoder,
    question_type: str,
    size: tuple[int, int],
    pictures: list[Image.Image],
) -> Row:
    near = size
    if rng.random() < 0.25:  # a size that the image processor brings to `size`
        near = (size[0] + rng.randint(-13, 13), size[1] + rng.randint(-13, 13))
    item = _draw(rng, question_type, near)
    pictures += [fit(image, size) for image in item.images]
    room = len(item.images) * (size[0] // UNIT) * (size[1] // UNIT) + MOST_TEXT
    while True:
        prompt = conversation.prompt(rng, item.question, len(item.images))
        row = encoder.row(prompt, item.answer, size)
        if len(row.ids) <= room:
            return row


def _draw(rng: random.Random, question_type: str, size: tuple[int, int]) -> Item:
    stranger = {"color": strange_shape, "shape": strange_color}.get(question_type)
    if stranger is not None and rng.random() < STRANGERS_SHARE:
        return stranger(rng, size)
    return draw_item(rng, TRAIN, question_type, size)


def _talk_row(rng: random.Random, encoder: Encoder) -> Row:
    question, answer = rng.choice(conversation.SMALL_TALK)
    return encoder.row(conversation.prompt(rng, question, 0), answer, (UNIT, UNIT))
