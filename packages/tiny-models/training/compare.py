"""Accuracy of several files of weights on the same held-out items, in one pass an item.

    python compare.py ONE.safetensors OTHER.safetensors --count 2000 [--controls]

For thousands of items a type: `measure.py` asks the engine, which is what is published; this gives
the same numbers, as `evaluate.py` says, and is fast enough on a GPU to tell a point's difference.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from data import Encoder
from evaluate import accuracy, batches
from forward import PictureForward
from tokenizers import Tokenizer
from train import MODEL, make_model

from sensorium_tiny_models.questions import HELD_OUT, SPLITS, Item, item_rng
from sensorium_tiny_models.score import ALL_TYPES, draw_one, grey, swapped

#: Items that are held at once.
_CHUNK = 500


def draw(split: str, seed: int, question_type: str, index: int) -> Item:
    """As `score.draw_items` draws it."""
    return draw_one(item_rng(f"{split}/{question_type}", seed, index), split, question_type)


def chunks(count: int) -> Iterator[range]:
    """`range(count)` in parts."""
    for start in range(0, count, _CHUNK):
        yield range(start, min(start + _CHUNK, count))


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare weights of tiny-vl.")
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=2000, help="items a type")
    parser.add_argument("--split", choices=SPLITS, default=HELD_OUT)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--types", nargs="+", choices=ALL_TYPES, default=ALL_TYPES)
    parser.add_argument("--controls", action="store_true", help="grey and swapped as well")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args()
    begun = time.monotonic()
    encoder = Encoder(Tokenizer.from_file(str(MODEL / "tokenizer.json")))
    with multiprocessing.get_context("fork").Pool(options.workers) as pool:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        forwards = [PictureForward(make_model(file, device), device) for file in options.weights]
        for name in options.types:
            right: dict[str, list[float]] = {}
            for numbers in chunks(options.count):
                items = pool.map(partial(draw, options.split, options.seed, name), numbers, 8)
                ways = {"right": items}
                if options.controls:
                    ways |= {"grey": [grey(item) for item in items], "swapped": swapped(items)}
                for way, asked in ways.items():
                    prepared = batches(asked, encoder, 128)
                    found = [accuracy(forward, asked, prepared)[name] for forward in forwards]
                    counts = right.setdefault(way, [0.0] * len(found))
                    right[way] = [n + len(asked) * x for n, x in zip(counts, found, strict=True)]
            shares = {
                way: [round(100 * n / options.count, 2) for n in counts]
                for way, counts in right.items()
            }
            print(json.dumps({"type": name, "items": options.count, **shares}), flush=True)
    print(f"{options.split}, seed {options.seed}: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
