"""Serving: throughput, decode and first tokens, with pictures and without, on dummy weights.

    python benchmarks/serving.py [--model qwen25vl-3b] [--only a,b] [--engine ours]

    a  requests of a new 448×448 picture and 64 tokens → 128 tokens
    b  requests of 512 tokens → 128 tokens
    c  one request of 128 tokens: time of a further token
    d  64 of them: time of a further step
    e  first token with a 1344×1344 picture: new, the same and a new question, the same request
    f  8 requests with 4 pictures of 672×672: the same four for all, four each of their own
    g  requests of a new 1275×1650 PNG page and 64 tokens → 128 tokens

Greedy, end-of-text ignored. Every repeat draws new tokens and pictures, so that no cache holds them
unless the measure is about the cache; one unrecorded pass goes before. ``--model`` is one of
``checkpoints/shapes.py`` or a folder; without it, a machine without a GPU gets a tiny model and a
few requests. A model without a tower is measured on text. ``--engine`` is "ours",
"theirs" (transformers) or ``module:Class`` with the interface of ``engines/``.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from checkpoints.shapes import SHAPES, image_of, shape
from engines import Engine, Request
from pages import page
from PIL import Image

ENGINES = {"ours": "engines.ours:Sensorium", "theirs": "engines.theirs:Transformers"}
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked for."""

    requests: int = 256
    out_len: int = 128
    decode_len: int = 256
    batch: int = 64
    pages: int = 128


SMALL = Sizes(requests=4, out_len=8, decode_len=16, batch=4, pages=2)


@dataclass(frozen=True, slots=True)
class Model:
    """Whose serving is measured.

    Attributes:
        image: as ``image_of`` tells; None: it takes text alone.
        vocab_size: of which prompts are drawn.
    """

    folder: Path
    image: list[int] | str | None
    vocab_size: int
    sizes: Sizes


def named_model(name: str) -> Model:
    """One of ``SHAPES``, or a folder."""
    folder = shape(name) if name in SHAPES else Path(name)
    config = json.loads((folder / "config.json").read_text())
    sizes = SMALL if name in ("tiny", "tiny-text") else Sizes()
    return Model(folder, image_of(config), config["vocab_size"], sizes)


class Work:
    """Draws requests and times an engine on them; ``pool`` makes what draws pages."""

    def __init__(
        self,
        engine: Engine,
        model: Model,
        sizes: Sizes,
        pool: Callable[[], Executor] = ProcessPoolExecutor,
    ) -> None:
        self.engine = engine
        self.model = model
        self.sizes = sizes
        self._pool = pool
        self._rng = np.random.default_rng(0)

    def request(self, images: Sequence[Image.Image], num_tokens: int) -> Request:
        """Pictures and random tokens behind them; of text, letters, which are a token each."""
        image, vocab_size = self.model.image, self.model.vocab_size
        if isinstance(image, str):
            letters = bytes(self._rng.integers(ord("a"), ord("z") + 1, num_tokens).tolist())
            return Request(image * len(images) + letters.decode(), list(images))
        drawn = self._rng.integers(vocab_size // 150, 3 * vocab_size // 4, num_tokens)
        return Request([*(image or []) * len(images), *drawn.tolist()], list(images))

    def noise(self, side: int) -> Image.Image:
        """A picture that no cache has seen."""
        return Image.fromarray(self._rng.integers(0, 256, (side, side, 3), dtype=np.uint8))

    def pages(self, count: int) -> list[Image.Image]:
        """Pages as PNG, not decoded yet."""
        seeds = self._rng.integers(0, 2**31, count).tolist()
        with self._pool() as pool:
            files = list(pool.map(page, seeds, chunksize=8))
        return [Image.open(io.BytesIO(file)) for file in files]

    def seconds(self, requests: Sequence[Request], out_len: int) -> float:
        """Until the last answer is there."""
        start = time.perf_counter()
        came = self.engine.run(requests, out_len)
        elapsed_s = time.perf_counter() - start
        if came != [out_len] * len(requests):
            raise SystemExit(f"not all tokens came: {came[:8]}")
        return elapsed_s

    def throughput(self, requests: Sequence[Request]) -> Figures:
        """Of requests that come all at once."""
        elapsed_s = self.seconds(requests, self.sizes.out_len)
        rate = len(requests) / elapsed_s
        return {"requests/s": rate, "tokens/s": rate * self.sizes.out_len}

    def decode(self, batch: int) -> Figures:
        """What each further token of each of ``batch`` requests takes."""
        first_s, all_s = (
            self.seconds([self.request([], 128) for _ in range(batch)], out_len)
            for out_len in (1, self.sizes.decode_len)
        )
        return {"ms a step": 1e3 * (all_s - first_s) / (self.sizes.decode_len - 1)}


def pictures(work: Work) -> Figures:
    """a."""
    return work.throughput(
        [work.request([work.noise(448)], 64) for _ in range(work.sizes.requests)]
    )


def text(work: Work) -> Figures:
    """b."""
    return work.throughput([work.request([], 512) for _ in range(work.sizes.requests)])


def first_token(work: Work) -> Figures:
    """e."""
    image = work.noise(1344)
    first, other = work.request([image], 64), work.request([image], 64)
    asked = {"new, ms": first, "new question, ms": other, "same request, ms": first}
    return {name: 1e3 * work.seconds([request], 1) for name, request in asked.items()}


def shared(work: Work) -> Figures:
    """f."""
    four = [work.noise(672) for _ in range(4)]
    same = [work.request(four, 32) for _ in range(8)]
    own = [work.request([work.noise(672) for _ in range(4)], 32) for _ in range(8)]
    out_len = work.sizes.out_len // 2
    return {"the same four, s": work.seconds(same, out_len), "own, s": work.seconds(own, out_len)}


def png_pages(work: Work) -> Figures:
    """g."""
    return work.throughput([work.request([i], 64) for i in work.pages(work.sizes.pages)])


MEASURES: dict[str, tuple[Callable[[Work], Figures], bool]] = {
    "a": (pictures, True),
    "b": (text, False),
    "c": (lambda work: work.decode(1), False),
    "d": (lambda work: work.decode(work.sizes.batch), False),
    "e": (first_token, True),
    "f": (shared, True),
    "g": (png_pages, True),
}


def main() -> None:
    """Measures and prints."""
    on_gpu = torch.cuda.is_initialized() or torch.cuda.device_count() > 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen25vl-3b" if on_gpu else "tiny")
    parser.add_argument("--engine", default="ours")
    parser.add_argument("--only", default=",".join(MEASURES), help="letters, with commas")
    parser.add_argument("--requests", type=int, help="of a and b")
    parser.add_argument("--options", default="{}", help="JSON: more options of the engine")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(MEASURES):
        parser.error(f"there is no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    model = named_model(given.model)
    sizes = replace(model.sizes, requests=given.requests or model.sizes.requests)
    module, _, name = ENGINES.get(given.engine, given.engine).partition(":")
    start = time.perf_counter()
    engine = getattr(importlib.import_module(module), name)(model.folder, json.loads(given.options))
    print(f"{given.engine} on {given.model}, torch {torch.__version__}: ", end="")
    print(f"ready in {time.perf_counter() - start:.1f} s", flush=True)
    print("| measure | | median | least | greatest |\n| --- | --- | ---: | ---: | ---: |")
    work = Work(engine, model, sizes)
    for letter in wanted:
        measure, needs_pictures = MEASURES[letter]
        if needs_pictures and model.image is None:
            continue
        measure(work)
        repeats = [measure(work) for _ in range(given.repeats)]
        for what in repeats[0]:
            values = [figures[what] for figures in repeats]
            row = f"{statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f}"
            print(f"| {letter} | {what} | {row} |", flush=True)


if __name__ == "__main__":
    main()
