"""Serving: throughput, decode and first tokens, with pictures and without, on dummy weights.

    python benchmarks/serving.py [--model qwen25vl-3b] [--only a,b] [--engine ours]

    a  requests of a new 448×448 picture and 64 tokens → 128 tokens
    b  requests of 512 tokens → 128 tokens
    c  one request of 128 tokens: time of a further token
    d  64 of them: time of a further step
    e  first token with a 1344×1344 picture: new, the same and a new question, the same request
    f  8 requests with 4 pictures of 672×672: the same four for all, four each of their own
    g  requests of a new 1275×1650 PNG page and 64 tokens → 128 tokens
    h  requests of 10 s of new sound and 64 tokens → 128 tokens
    i  first token with a clip of one minute, 120 frames of 640×360: new, the same and a new
       question, the same request
    j  64 requests of such a clip, each its own, and 64 tokens → 128 tokens

The clips of i and j are arrays of these frames. With ``--clips [FOLDER]`` they are files, a minute
of H.264 at 30 frames a second: the folder's MP4 files, which ``clip_files.py`` writes, or one that
is drawn before the clock starts. Of their 1,800 frames the same number count, 120, so the rows
stand beside those of arrays; what comes on top is reading them. No two requests have the same file.

Greedy, end-of-text ignored. Every repeat draws new tokens and pictures, so that no cache holds them
unless the measure is about the cache; one unrecorded pass goes before. ``--model`` is one of
``checkpoints/shapes.py`` or a folder; without it, a machine without a GPU gets a tiny model and a
few requests. What a model doesn't take is left out; h, i and j are measured where ``--only`` names
them, i and j with a context of 32,768 tokens. ``--engine`` is "ours",
"theirs" (transformers) or ``module:Class`` with the interface of ``engines/``.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints.shapes import SHAPES, shape, spellings
from clip_files import HEIGHT as FRAME_HEIGHT
from clip_files import WIDTH as FRAME_WIDTH
from clip_files import ClipFiles
from engines import Engine, Request
from pages import page
from PIL import Image

ENGINES = {"ours": "engines.ours:Sensorium", "theirs": "engines.theirs:Transformers"}
Figures = dict[str, float]
SOUND_RATE = 16_000
#: Frames of a clip that count in a second.
FRAMES_A_SECOND = 2
#: Tokens of context that a clip of one minute fits into.
CLIP_CONTEXT = 32_768


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is asked for."""

    requests: int = 256
    out_len: int = 128
    decode_len: int = 256
    batch: int = 64
    pages: int = 128
    clips: int = 64
    frames: int = 120
    sound_s: int = 10


SMALL = Sizes(requests=4, out_len=8, decode_len=16, batch=4, pages=2, clips=2, frames=8, sound_s=1)


@dataclass(frozen=True, slots=True)
class Model:
    """Whose serving is measured.

    Attributes:
        spellings: kind → an item in a prompt; what isn't there isn't taken.
        vocab_size: of which prompts are drawn.
    """

    folder: Path
    spellings: Mapping[str, list[int] | str]
    vocab_size: int
    sizes: Sizes


def named_model(name: str) -> Model:
    """One of ``SHAPES``, or a folder."""
    folder = shape(name) if name in SHAPES else Path(name)
    config = json.loads((folder / "config.json").read_text())
    sizes = SMALL if name.startswith("tiny") else Sizes()
    return Model(folder, spellings(config), config["vocab_size"], sizes)


class Requests:
    """Draws requests; ``pool`` makes what draws pages, ``clips`` are files instead of arrays."""

    def __init__(
        self,
        model: Model,
        sizes: Sizes,
        pool: Callable[[], Executor] = ProcessPoolExecutor,
        seed: int = 0,
        clips: ClipFiles | None = None,
    ) -> None:
        self.model = model
        self.sizes = sizes
        self._pool = pool
        self._clips = clips
        self._rng = np.random.default_rng(seed)
        self._frames: np.ndarray | None = None

    def request(self, num_tokens: int, kind: str = "image", items: Sequence[Any] = ()) -> Request:
        """Items and random tokens behind them; of text, letters, which are a token each."""
        spelling = self.model.spellings.get(kind, [])
        media = {kind: list(items)} if items else {}
        if isinstance(spelling, str):
            letters = bytes(self._rng.integers(ord("a"), ord("z") + 1, num_tokens).tolist())
            return Request(spelling * len(items) + letters.decode(), media)
        vocab_size = self.model.vocab_size
        drawn = self._rng.integers(vocab_size // 150, 3 * vocab_size // 4, num_tokens)
        return Request([*spelling * len(items), *drawn.tolist()], media)

    def noise(self, side: int) -> Image.Image:
        """A picture that no cache has seen."""
        return Image.fromarray(self._rng.integers(0, 256, (side, side, 3), dtype=np.uint8))

    def sound(self) -> tuple[np.ndarray, int]:
        """Noise that no cache has heard."""
        length = SOUND_RATE * self.sizes.sound_s
        return self._rng.standard_normal(length, dtype=np.float32) / 8, SOUND_RATE

    def clip(self) -> np.ndarray | bytes:
        """A file, or frames, that no cache has seen: the same noise in other colours each time."""
        if self._clips is not None:
            return self._clips.new()
        if self._frames is None:
            shape = (self.sizes.frames, FRAME_HEIGHT, FRAME_WIDTH, 3)
            self._frames = self._rng.integers(0, 256, shape, dtype=np.uint8)
        frames = self._frames ^ self._rng.integers(0, 256, 3, dtype=np.uint8)
        frames[:, 0] = self._rng.integers(0, 256, frames[:, 0].shape, dtype=np.uint8)
        return frames

    def pages(self, count: int) -> list[Image.Image]:
        """Pages as PNG, not decoded yet."""
        seeds = self._rng.integers(0, 2**31, count).tolist()
        with self._pool() as pool:
            files = list(pool.map(page, seeds, chunksize=8))
        return [Image.open(io.BytesIO(file)) for file in files]


class Work(Requests):
    """Draws requests and times an engine on them."""

    def __init__(self, engine: Engine, *drawn: Any, **options: Any) -> None:
        super().__init__(*drawn, **options)
        self.engine = engine

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
            self.seconds([self.request(128) for _ in range(batch)], out_len)
            for out_len in (1, self.sizes.decode_len)
        )
        return {"ms a step": 1e3 * (all_s - first_s) / (self.sizes.decode_len - 1)}


def pictures(work: Work) -> Figures:
    """a."""
    return work.throughput(
        [work.request(64, "image", [work.noise(448)]) for _ in range(work.sizes.requests)]
    )


def text(work: Work) -> Figures:
    """b."""
    return work.throughput([work.request(512) for _ in range(work.sizes.requests)])


def first_token(work: Work) -> Figures:
    """e."""
    return first_tokens(work, "image", work.noise(1344))


def first_tokens(work: Work, kind: str, item: Any) -> Figures:
    """Of a new item, of a question about it, and of the same request."""
    first, other = work.request(64, kind, [item]), work.request(64, kind, [item])
    asked = {"new, ms": first, "new question, ms": other, "same request, ms": first}
    return {name: 1e3 * work.seconds([request], 1) for name, request in asked.items()}


def shared(work: Work) -> Figures:
    """f."""
    four = [work.noise(672) for _ in range(4)]
    same = [work.request(32, "image", four) for _ in range(8)]
    own = [work.request(32, "image", [work.noise(672) for _ in range(4)]) for _ in range(8)]
    out_len = work.sizes.out_len // 2
    return {"the same four, s": work.seconds(same, out_len), "own, s": work.seconds(own, out_len)}


def png_pages(work: Work) -> Figures:
    """g."""
    pages = work.pages(work.sizes.pages)
    return work.throughput([work.request(64, "image", [page]) for page in pages])


def sounds(work: Work) -> Figures:
    """h."""
    count = work.sizes.requests
    return work.throughput([work.request(64, "audio", [work.sound()]) for _ in range(count)])


def first_token_of_clip(work: Work) -> Figures:
    """i."""
    return first_tokens(work, "video", work.clip())


def clips(work: Work) -> Figures:
    """j."""
    count = work.sizes.clips
    return work.throughput([work.request(64, "video", [work.clip()]) for _ in range(count)])


#: Letter → measure, and the kind that it needs; "": text.
MEASURES: dict[str, tuple[Callable[[Work], Figures], str]] = {
    "a": (pictures, "image"),
    "b": (text, ""),
    "c": (lambda work: work.decode(1), ""),
    "d": (lambda work: work.decode(work.sizes.batch), ""),
    "e": (first_token, "image"),
    "f": (shared, "image"),
    "g": (png_pages, "image"),
    "h": (sounds, "audio"),
    "i": (first_token_of_clip, "video"),
    "j": (clips, "video"),
}
UNNAMED = "a,b,c,d,e,f,g"
CLIPS_HELP = "of i and j: files, those of a folder or drawn now; without it arrays"


def wanted_of(given: str, model: Model) -> tuple[list[str], dict[str, Any]]:
    """The letters that a model can be measured by, and the options that they need.

    Raises:
        SystemExit: there is no such measure.
    """
    letters = given.split(",")
    if unknown := set(letters) - set(MEASURES):
        raise SystemExit(f"there is no measure {', '.join(unknown)}; there are {list(MEASURES)}")
    kinds = {letter: MEASURES[letter][1] for letter in letters}
    taken = [letter for letter, kind in kinds.items() if not kind or kind in model.spellings]
    needs_room = any(kinds[letter] == "video" for letter in taken)
    return taken, {"max_model_len": CLIP_CONTEXT} if needs_room else {}


def clip_files(given: str | None, sizes: Sizes) -> ClipFiles | None:
    """What ``--clips`` names; None: clips are arrays."""
    return None if given is None else ClipFiles.named(given, sizes.frames / FRAMES_A_SECOND)


def main() -> None:
    """Measures and prints."""
    on_gpu = torch.cuda.is_initialized() or torch.cuda.device_count() > 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen25vl-3b" if on_gpu else "tiny")
    parser.add_argument("--engine", default="ours")
    parser.add_argument("--only", default=UNNAMED, help="letters, with commas")
    parser.add_argument("--requests", type=int, help="of a, b and h")
    parser.add_argument("--options", default="{}", help="JSON: more options of the engine")
    parser.add_argument("--clips", nargs="?", const="", help=CLIPS_HELP)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keeps every figure")
    given = parser.parse_args()
    model = named_model(given.model)
    wanted, needed = wanted_of(given.only, model)
    options = needed | json.loads(given.options)
    sizes = replace(model.sizes, requests=given.requests or model.sizes.requests)
    clips = clip_files(given.clips, sizes)
    module, _, name = ENGINES.get(given.engine, given.engine).partition(":")
    start = time.perf_counter()
    engine = getattr(importlib.import_module(module), name)(model.folder, options)
    print(f"{given.engine} on {given.model}, torch {torch.__version__}: ", end="")
    print(f"ready in {time.perf_counter() - start:.1f} s", flush=True)
    print("| measure | | median | least | greatest |\n| --- | --- | ---: | ---: | ---: |")
    work = Work(engine, model, sizes, clips=clips)
    warm_up = Work(engine, model, replace(sizes, clips=min(4, sizes.clips)), seed=1, clips=clips)
    rows = []
    for letter in wanted:
        measure, _ = MEASURES[letter]
        measure(warm_up if letter == "j" else work)
        repeats = [measure(work) for _ in range(given.repeats)]
        for what in repeats[0]:
            values = [figures[what] for figures in repeats]
            rows.append({"measure": letter, "what": what, "values": values})
            row = f"{statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f}"
            print(f"| {letter} | {what} | {row} |", flush=True)
    if given.json:
        about = {"engine": given.engine, "model": given.model, "torch": torch.__version__}
        about["clips"] = "arrays" if clips is None else "files"
        given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
