"""Training batches, drawn on the fly by worker processes.

All pictures of a batch are brought to one size, so that the tower runs on one rectangular block.
Items with one picture and items with two form two groups, each padded on the right to one length.
Workers write pictures into shared anonymous memory; only the small arrays go through a queue.
"""

from __future__ import annotations

import mmap
import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import conversation
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sensorium_tiny_models.questions import QUESTION_TYPES, SIZES, TRAIN, Item, draw_item
from tokenizers import Tokenizer

UNIT = 28  # pixels per side of one image token: two patches of 14
IGNORED = -100

# How often each type is drawn; the types that need most practice come most often.
WEIGHTS = {
    "color": 1.0, "shape": 1.4, "count": 1.6, "position": 0.7, "relation": 0.9,
    "describe": 2.2, "digits": 2.6, "words": 3.4, "compare": 1.8,
}  # fmt: skip
SMALL_TALK_SHARE = 0.01


@dataclass(slots=True)
class Group:
    """Items with the same number of pictures, right-padded: ids, labels (n, L), positions (3, n, L)."""

    num_images: int
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(slots=True)
class Batch:
    """Groups, and the pictures of all their items in order (num_pictures, height, width, 3) uint8."""

    groups: list[Group]
    pictures: NDArray[np.uint8]


@dataclass(slots=True)
class Row:
    """One item as token ids, labels and rotary positions (3, length)."""

    ids: list[int]
    labels: list[int]
    positions: NDArray[np.int64]


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
        labels = [IGNORED] * len(ids) + answer_ids
        return Row(ids + answer_ids, labels, np.concatenate(parts, axis=1))


def _grid_positions(start: int, rows: int, columns: int) -> NDArray[np.int64]:
    time = np.zeros((rows, columns), dtype=np.int64)
    down, right = np.indices((rows, columns))
    return np.stack([time, down, right]).reshape(3, -1) + start


def group(rows: list[Row], num_images: int) -> Group:
    """Pad rows on the right to a multiple of eight."""
    length = -(-max(len(row.ids) for row in rows) // 8) * 8
    ids = np.zeros((len(rows), length), dtype=np.int64)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int64)
    positions = np.zeros((3, len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        labels[i, : len(row.ids)] = row.labels
        positions[:, i, : len(row.ids)] = row.positions
    return Group(num_images, ids, labels, positions)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize as the family's image processor does."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def draw_batch(
    rng: random.Random, encoder: Encoder, num_items: int, out: NDArray[np.uint8]
) -> Batch:
    """Draw a batch; the pictures go to the front of `out`, a flat buffer."""
    size = rng.choice(SIZES)
    types = rng.choices(QUESTION_TYPES, [WEIGHTS[t] for t in QUESTION_TYPES], k=num_items)
    items: dict[int, list[Item]] = {1: [], 2: []}
    for question_type in types:
        near = size
        if rng.random() < 0.25:  # of a size that needs resizing to `size`
            near = (size[0] + rng.randint(-13, 13), size[1] + rng.randint(-13, 13))
        item = draw_item(rng, TRAIN, question_type, near)
        items[len(item.images)].append(item)
    groups, pictures = [], []
    for num_images, members in items.items():
        if not members:
            continue
        rows = []
        for item in members:
            prompt = conversation.prompt(rng, item.question, num_images)
            rows.append(encoder.row(prompt, item.answer, size))
            pictures += [fit(image, size) for image in item.images]
        groups.append(group(rows, num_images))
    talk = rng.choices(conversation.SMALL_TALK, k=max(1, round(SMALL_TALK_SHARE * num_items)))
    talk_rows = [encoder.row(conversation.prompt(rng, q, 0), a, size) for q, a in talk]
    groups.append(group(talk_rows, 0))
    shape = (len(pictures), size[1], size[0], 3)
    block = out[: int(np.prod(shape))].reshape(shape)
    for i, picture in enumerate(pictures):
        block[i] = np.asarray(picture)
    return Batch(groups, block)


def _work(
    seed: str, num_items: int, slots: list[mmap.mmap], free: Any, ready: Any, worker: int
) -> None:
    folder = Path(__file__).parents[1] / "src" / "sensorium_tiny_models" / "model"
    encoder = Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))
    rng = random.Random(f"training/{seed}/{worker}")
    while True:
        slot = free.get()
        if slot is None:
            return
        out = np.frombuffer(slots[slot], dtype=np.uint8)
        batch = draw_batch(rng, encoder, num_items, out)
        ready.put((worker, slot, batch.pictures.shape, batch.groups))


class Drawers:
    """Worker processes that keep batches ready; start them before the device is touched."""

    def __init__(self, num_workers: int, num_items: int, seed: str, slots_each: int = 2) -> None:
        context = multiprocessing.get_context("fork")
        room = int(num_items * 1.5 * max(w * h for w, h in SIZES) * 3)
        self._ready = context.Queue()
        self._free = [context.Queue() for _ in range(num_workers)]
        self._slots = [[mmap.mmap(-1, room) for _ in range(slots_each)] for _ in range(num_workers)]
        self._processes = [
            context.Process(
                target=_work,
                args=(seed, num_items, self._slots[i], self._free[i], self._ready, i),
                daemon=True,
            )
            for i in range(num_workers)
        ]
        for i, process in enumerate(self._processes):
            for slot in range(slots_each):
                self._free[i].put(slot)
            process.start()

    def __iter__(self) -> Iterator[Batch]:
        """Batches whose pictures are valid until the next one is asked for."""
        while True:
            worker, slot, shape, groups = self._ready.get()
            flat = np.frombuffer(self._slots[worker][slot], dtype=np.uint8)
            yield Batch(groups, flat[: int(np.prod(shape))].reshape(shape))
            self._free[worker].put(slot)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
