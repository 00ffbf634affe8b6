"""Training batches, drawn on the fly by worker processes: of pictures, or of clips.

All pictures of a batch are brought to one size, and all clips to one size and number of frames, so
that the tower runs on one rectangular block.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import conversation
import numpy as np
from batches import Batch, Drawers, Row, group
from numpy.typing import NDArray
from PIL import Image
from strangers import STRANGE_CAST, strange_color, strange_shape
from tokenizers import Tokenizer

from sensorium_tiny_models.clips import CASTS, CLIP_DRAWERS, CLIP_FORMS, Form
from sensorium_tiny_models.questions import SIZES, TRAIN, Item, draw_item

UNIT = 28  # pixels per side of one image token: two patches of 14
SPAN = 2  # frames of one time of a clip
POSITIONS_PER_SECOND = 2  # of a clip's times: ``tokens_per_second`` of the configuration

# How often each type is drawn; the types that need most practice come most often.
WEIGHTS = {
    "color": 1.8, "shape": 2.2, "count": 1.6, "position": 0.7, "relation": 0.9,
    "describe": 2.2, "digits": 2.8, "words": 3.6,
}  # fmt: skip
TWO_PICTURES_SHARE, SMALL_TALK_SHARE = 0.12, 0.012
# How many of the colour and shape questions are about strange shapes and colours.
STRANGERS_SHARE = 0.6

CLIP_WEIGHTS = {"moving": 1.0, "direction": 1.0, "times": 1.3, "change": 1.2, "first": 1.2}
#: Of clips' subjects, how many are strange shapes, or shapes in strange colours.
STRANGE_CLIPS_SHARE = 0.4
#: Questions about clips in a batch of them, for one in a batch of pictures.
CLIPS_PER_PICTURE = 0.5
#: Frames a second: two in most clips, which is what is sampled; others where a clip is short or
#: its caller says so.
RATES = (2.0, 2.0, 2.0, 1.0, 3.0, 4.0)

# Room for text in a row beside its image tokens, and for answer tokens per row on average.
MOST_TEXT, MOST_ANSWER = 52, 11
MOST_CLIP_TEXT, MOST_CLIP_ANSWER = 60, 12


@dataclass(slots=True)
class Encoder:
    """Turns text with placeholders into rows, for pictures or clips of one size."""

    tokenizer: Tokenizer
    image_id: int = field(init=False)
    video_id: int = field(init=False)

    def __post_init__(self) -> None:
        self.image_id = self.tokenizer.token_to_id("<|image_pad|>")
        self.video_id = self.tokenizer.token_to_id("<|video_pad|>")

    def row(
        self,
        prompt: str,
        answer: str,
        size: tuple[int, int],
        num_frames: int = SPAN,
        rate: float = 2.0,
    ) -> Row:
        """`size` is (width, height) in pixels, multiples of `UNIT`; `rate` is of a clip's frames.

        Positions of a clip's times are seconds, multiplied before they are cut off, as the engine
        has them.
        """
        columns, rows = size[0] // UNIT, size[1] // UNIT
        seconds = np.arange(num_frames // SPAN, dtype=np.float32) * np.float32(SPAN / rate)
        moments = (seconds * np.float32(POSITIONS_PER_SECOND)).astype(np.int64)
        grids = {self.image_id: np.zeros(1, dtype=np.int64), self.video_id: moments}
        ids: list[int] = []
        parts: list[NDArray[np.int64]] = []
        start = since = 0  # the next position, and the first one that no part has yet

        for token in self.tokenizer.encode(prompt, add_special_tokens=False).ids:
            times = grids.get(token)
            if times is None:
                ids.append(token)
                start += 1
                continue
            ids += [token] * (len(times) * rows * columns)
            parts += [_line(since, start), _grid_positions(start, times, rows, columns)]
            start = since = int(parts[-1].max()) + 1
        answer_ids = self.tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False).ids
        parts.append(_line(since, start + len(answer_ids)))
        return Row(ids + answer_ids, len(answer_ids), np.concatenate(parts, axis=1))


def _line(start: int, stop: int) -> NDArray[np.int64]:
    """Positions of text: all three axes count up together."""
    return np.tile(np.arange(start, stop), (3, 1))


def _grid_positions(
    start: int, times: NDArray[np.int64], rows: int, columns: int
) -> NDArray[np.int64]:
    axes = np.indices((len(times), rows, columns)).reshape(3, -1)
    axes[0] = times[axes[0]]
    return axes + start


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize as the family's image processor does."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def start_drawers(
    encoder: Encoder, num_workers: int, num_items: int, seed: str, clip_share: float = 0.0
) -> Drawers:
    """Worker processes that draw batches.

    Args:
        num_items: questions in a batch of pictures; one of clips has fewer.
        clip_share: how many of the batches are about clips, 0 to 1.
    """
    pictures = int(num_items * 1.5 * max(w * h for w, h in SIZES) * 3)
    num_clips = max(1, round(num_items * CLIPS_PER_PICTURE))
    clips = num_clips * max(n * w * h for n, (w, h) in CLIP_FORMS) * 3

    def draw(rng: random.Random, out: NDArray[np.uint8]) -> Batch:
        if rng.random() < clip_share:
            return draw_clips(encoder, num_clips, rng, out)
        return draw_batch(encoder, num_items, rng, out)

    return Drawers(draw, num_workers, seed, max(pictures, clips))


def draw_clips(
    encoder: Encoder, num_items: int, rng: random.Random, out: NDArray[np.uint8]
) -> Batch:
    """Draw a batch of clips whose shapes follow from one form; frames go into `out`."""
    form = num_frames, size = rng.choice(CLIP_FORMS)
    types = rng.choices(list(CLIP_WEIGHTS), list(CLIP_WEIGHTS.values()), k=num_items)
    num_tokens = num_frames // SPAN * (size[0] // UNIT) * (size[1] // UNIT)
    shape = (num_items, num_frames, size[1], size[0], 3)
    block = out[: int(np.prod(shape))].reshape(shape)
    rows = [
        _clip_row(rng, encoder, name, form, num_tokens + MOST_CLIP_TEXT, frames)
        for name, frames in zip(types, block, strict=True)
    ]
    one = group(
        rows, encoder.video_id, num_items, num_tokens + MOST_CLIP_TEXT, num_items * MOST_CLIP_ANSWER
    )
    return Batch([one], block)


def _clip_row(
    rng: random.Random,
    encoder: Encoder,
    question_type: str,
    form: Form,
    room: int,
    out: NDArray[np.uint8],
) -> Row:
    """A question about a clip, whose frames are written into ``out``."""
    num_frames, size = near = form
    if rng.random() < 0.05:  # a size that the processor brings to `size`
        near = num_frames, (size[0] + rng.randint(-13, 13), size[1] + rng.randint(-13, 13))
    cast = STRANGE_CAST if rng.random() < STRANGE_CLIPS_SHARE else CASTS[TRAIN]
    item = CLIP_DRAWERS[question_type](rng, near, cast)
    for target, frame in zip(out, item.clip, strict=True):
        target[:] = np.asarray(fit(frame, size))
    while True:
        prompt = conversation.prompt(rng, item.question, 1, conversation.CLIP)
        row = encoder.row(prompt, item.answer, size, num_frames, rng.choice(RATES))
        if len(row.ids) <= room:
            return row


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
