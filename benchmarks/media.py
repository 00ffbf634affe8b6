"""From encoded bytes to the tower's input: the engine's threads against transformers' processors.

    python benchmarks/media.py [--quick] [--repeats 5] [--threads 1,2] [--json FILE]

Both begin with the bytes of a file and end with Qwen2.5-VL's `pixel_values` in float32, at its
published bounds (3136 to 12845056 pixels, patches of 14, blocks of 2×2, frames in twos): rescaling,
normalising and cutting into patches, which the engine leaves to the device, run on the CPU here and
count. Peers take turns in one process; torch may use one thread in each. The peer on Pillow is
always there, the one on torchvision where torchvision is installed. Files are drawn from seeds.

Printed: images a second, medians of the repeats; ratios of peers and of numbers of threads, medians
of each repeat's; and what may bound threads: copying memory, page faults, and Python itself, which
one thread at a time can run: an image of one block has almost nothing but that.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import io
import json
import logging
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import transformers
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoImageProcessor

from sensorium.config import EngineConfig
from sensorium.engine.model import open_model
from sensorium.media.pipeline import MediaPipeline
from sensorium.media.process import DecodeBudget, check_probe, content_digest, load, probe, process
from sensorium.plugins.discovery import discover
from sensorium.types import BytesSource, Loaded, MediaItem
from sensorium_media_image.patches import PatchShape, normalised_patches
from sensorium_media_image.towers.normalise import read_normalisation
from sensorium_tiny_models import model_path

MIN_PIXELS, MAX_PIXELS = 3136, 12845056
SHAPE = PatchShape(size=14, merge=2, frames=2)
BUDGET_BYTES = 2**40
#: What a measurement of one thread takes at least, about.
MEASURE_S = 0.15

Work = Callable[[bytes], torch.Tensor]


# --- the files -------------------------------------------------------------------------


def draw_photo(height: int, width: int, seed: int) -> Image.Image:
    """Smooth noise at six scales and some grain, so that it codes about as long as a photo."""
    rng = np.random.default_rng(seed)
    levels = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((3, 56), (9, 32), (27, 19), (81, 11), (243, 6.4), (729, 4)):
        rows = max(2, round(cells * height / width) + 1)
        grid = rng.normal(0, strength, (rows, cells + 1, 3)).astype(np.float32)
        for channel in range(3):
            plane = Image.fromarray(grid[..., channel])
            plane = plane.resize((width, height), Image.Resampling.BICUBIC)
            levels[..., channel] += np.asarray(plane)
    levels += rng.normal(118, 2, (height, width, 1))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def draw_page(height: int, width: int, seed: int) -> Image.Image:
    """Lines of made-up words, smoothed at the edges."""
    rng = np.random.default_rng(seed)
    page = Image.new("RGB", (width, height), "white")
    pen, font, margin = ImageDraw.Draw(page), ImageFont.load_default(18), width // 14
    for y in range(margin, height - margin, 26):
        x = float(margin)
        while True:
            letters = rng.integers(ord("a"), ord("z") + 1, rng.integers(2, 10))
            word = "".join(map(chr, letters)) + " "
            length = pen.textlength(word, font=font)
            if x + length > width - margin:
                break
            pen.text((x, y), word, fill=(20, 20, 20), font=font)
            x += length
    return page


def encode(picture: Image.Image, name: str, **options: Any) -> bytes:
    """The file."""
    file = io.BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


def draw_files(quick: bool) -> dict[str, bytes]:
    """By what they are."""
    photo, page = draw_photo(1080, 1920, 1), draw_page(1650, 1275, 2)
    jpeg = {"quality": 90, "subsampling": "4:2:0"}
    files = {
        "JPEG 1920×1080": encode(photo, "JPEG", **jpeg),
        "PNG page 1275×1650": encode(page, "PNG"),
    }
    if quick:
        return files
    small = draw_photo(240, 320, 3)
    files["PNG page 1275×1650, grey"] = encode(page.convert("L"), "PNG")
    files["WebP 1920×1080"] = encode(photo, "WEBP", quality=80)
    files["JPEG 320×240"] = encode(small, "JPEG", **jpeg)
    files["PNG 320×240, RGBA"] = encode(small.convert("RGBA"), "PNG")
    files["JPEG 4000×3000"] = encode(draw_photo(3000, 4000, 4), "JPEG", **jpeg)
    return files


# --- the peers -------------------------------------------------------------------------


class Engine:
    """What the engine's media threads do with a file, and what the tower does first."""

    def __init__(self) -> None:
        config = EngineConfig(model=str(model_path()))
        self.model = open_model(config, discover())
        self.kind = self.model.kinds["image"]
        self.bounds = {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS}
        self.options = {"image": self.model.adapters["image"].options(self.bounds)}
        self.constants = read_normalisation(self.model.checkpoint.processor).constants(
            torch.device("cpu")
        )

    def digest(self, data: bytes) -> bytes:
        """The key of the content."""
        return content_digest(self.kind, (BytesSource(data),))

    def load(self, data: bytes) -> Loaded:
        """Header, limits, decoding."""
        sources = (BytesSource(data),)
        told = probe(self.kind, sources)
        check_probe(self.kind, told, DecodeBudget(BUDGET_BYTES))
        return load(self.kind, sources, told)

    def resize(self, loaded: Loaded) -> torch.Tensor:
        """Plan and features."""
        (part,) = process("image", loaded, self.model.adapters, self.options)
        (features,) = part.features.values()
        return features["pixels"]

    def tower_input(self, pixels: torch.Tensor) -> torch.Tensor:
        """Rescaled, normalised, cut."""
        return normalised_patches([pixels], SHAPE, *self.constants)

    def work(self, data: bytes) -> torch.Tensor:
        """All of it."""
        self.digest(data)
        return self.tower_input(self.resize(self.load(data)))

    def pipeline(self, num_threads: int) -> MediaPipeline:
        """The engine's own, which keeps nothing."""
        return MediaPipeline(
            self.model.kinds,
            self.model.adapters,
            limits={},
            processor_kwargs=self.bounds,
            cache_bytes=0,
            num_threads=num_threads,
            uuids_ignored=True,
        )


def reference(backend: str) -> Work:
    """transformers' processor for Qwen2.5-VL."""
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": SHAPE.size,
        "merge_size": SHAPE.merge,
        "temporal_patch_size": SHAPE.frames,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "preprocessor_config.json").write_text(json.dumps(settings))
        processor: Any = AutoImageProcessor.from_pretrained(folder, backend=backend)  # type: ignore[no-untyped-call]
    is_pil = type(processor).__name__.endswith("Pil")
    assert is_pil == (backend == "pil"), f"{backend} gave {type(processor).__name__}"

    def work(data: bytes) -> torch.Tensor:
        values = processor(Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"]
        assert isinstance(values, torch.Tensor)
        return values

    return work


def check_same(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Both must have done the same work; their resizing differs by a level here and there."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        sys.exit(f"{name}: {ours.shape} {ours.dtype} against {theirs.shape} {theirs.dtype}")
    difference = (ours - theirs).abs().mean().item()
    if difference > 0.01:
        sys.exit(f"{name}: the values differ by {difference:.3f} on average")


# --- measuring -------------------------------------------------------------------------


@dataclass
class Case:
    """A file's figures.

    Attributes:
        stages_ms: of the engine, in one thread.
        one_block_ms: what a file of the same format costs that has one block, in one thread.
        rates: peer → threads → images a second; "features" are the engine's own pipeline, which
            ends before the tower's input.
        ratios: peer → threads → the engine's rate over its.
        scaling: peer → threads → its rate over that of one thread.
        faults: page faults an image, by threads.
    """

    name: str
    num_bytes: int
    stages_ms: dict[str, float]
    one_block_ms: float
    rates: dict[str, dict[int, float]] = field(default_factory=dict)
    ratios: dict[str, dict[int, float]] = field(default_factory=dict)
    scaling: dict[str, dict[int, float]] = field(default_factory=dict)
    faults: dict[int, float] = field(default_factory=dict)


def seconds(work: Callable[[], object]) -> float:
    """One run's."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pool_rate(pool: ThreadPoolExecutor, work: Callable[[], object], count: int) -> float:
    """Runs a second, shared out among the pool's threads."""

    def run() -> None:
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()

    return count / seconds(run)


def pipeline_rate(engine: Engine, pipeline: MediaPipeline, data: bytes, count: int) -> float:
    """Images a second to the features alone, each a request of its own."""

    async def prepare_one(index: int) -> None:
        item = MediaItem("image", 0, (BytesSource(data),))
        # Salted, or equal items would share one's work.
        (await pipeline.prepare([item], salt=str(index))).release()

    async def prepare() -> None:
        await asyncio.gather(*map(prepare_one, range(count)))

    return count / seconds(lambda: asyncio.run(prepare()))


def measure(
    name: str, data: bytes, engine: Engine, peers: dict[str, Work], threads: list[int], repeats: int
) -> Case:
    """Everything about one file."""
    alone_s = {}
    for peer, work in peers.items():
        check_same(f"{name}, {peer}", engine.work(data), work(data))
        alone_s[peer] = min(seconds(partial(work, data)) for _ in range(2))
    block = encode(draw_photo(SHAPE.side, SHAPE.side, 5), name.split()[0])
    block_s = statistics.median(seconds(partial(engine.work, block)) for _ in range(50))
    case = Case(name, len(data), measure_stages(engine, data, 3 * repeats), 1e3 * block_s)
    measure_rates(case, data, engine, peers, alone_s, threads, repeats)
    return case


def measure_stages(engine: Engine, data: bytes, repeats: int) -> dict[str, float]:
    """Medians in milliseconds."""
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        value: Any = data
        times.setdefault("digest", []).append(seconds(partial(engine.digest, data)))
        for stage in (engine.load, engine.resize, engine.tower_input):
            start = time.perf_counter()
            value = stage(value)
            times.setdefault(stage.__name__, []).append(time.perf_counter() - start)
    return {stage: 1e3 * statistics.median(found) for stage, found in times.items()}


def measure_rates(
    case: Case,
    data: bytes,
    engine: Engine,
    peers: dict[str, Work],
    alone_s: dict[str, float],
    threads: list[int],
    repeats: int,
) -> None:
    """Rates, ratios and scaling: peers and numbers of threads in turn, then the next repeat."""
    pools = {k: ThreadPoolExecutor(k) for k in threads}
    pipelines = {k: engine.pipeline(k) for k in threads}
    counts = {peer: max(1, round(MEASURE_S / alone_s[peer])) for peer in peers}
    found: dict[str, dict[int, list[float]]] = {}
    faults: dict[int, list[float]] = {}
    for repeat in range(repeats + 1):
        for k in threads:
            rates = {}
            for peer, work in peers.items():
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                rates[peer] = pool_rate(pools[k], partial(work, data), k * counts[peer])
                if peer == "engine":
                    after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                    num = (after - before) / (k * counts[peer])
            rates["features"] = pipeline_rate(engine, pipelines[k], data, k * counts["engine"])
            if repeat == 0:
                continue  # each thread's first images are slower
            faults.setdefault(k, []).append(num)
            for peer, rate in rates.items():
                found.setdefault(peer, {}).setdefault(k, []).append(rate)
    for k in threads:
        pools[k].shutdown()
        pipelines[k].close()
        case.faults[k] = statistics.median(faults[k])
        for peer, by_threads in found.items():
            case.rates.setdefault(peer, {})[k] = statistics.median(by_threads[k])
            case.scaling.setdefault(peer, {})[k] = median_ratio(by_threads[k], by_threads[1])
            if peer in peers and peer != "engine":
                ratio = median_ratio(found["engine"][k], by_threads[k])
                case.ratios.setdefault(peer, {})[k] = ratio


def median_ratio(rates: Sequence[float], others: Sequence[float]) -> float:
    """The median of what each repeat gives."""
    return statistics.median(rate / other for rate, other in zip(rates, others, strict=True))


def copy_rate(num_threads: int, repeats: int) -> float:
    """Gigabytes read and written a second, when each thread copies 32 MiB over and over."""
    pairs = [(np.ones(2**25, np.uint8), np.zeros(2**25, np.uint8)) for _ in range(num_threads)]

    def copy(pair: tuple[Any, Any]) -> None:
        for _ in range(8):
            np.copyto(pair[1], pair[0])

    with ThreadPoolExecutor(num_threads) as pool:
        times = [seconds(lambda: list(pool.map(copy, pairs))) for _ in range(repeats + 1)]
    return num_threads * 8 * 2 * 2**25 / statistics.median(times[1:]) / 1e9


def busy_seconds() -> tuple[float, float]:
    """Of all cores since the machine started, and of this process; equal where unknown."""
    own = time.process_time()
    stat = Path("/proc/stat")
    if not stat.exists():
        return own, own
    ticks = [int(n) for n in stat.read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK"), own


def threads_inside_ours(work: Callable[[], object]) -> int | None:
    """How many threads ``work`` starts in a thread of a pool; None where it can't be told."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return None
    before = len(list(tasks.iterdir()))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
        return len(list(tasks.iterdir())) - before - 1


# --- what is printed -------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch instructions": torch.backends.cpu.get_cpu_capability(),
        "transformers": transformers.__version__,
        "Pillow": PIL.__version__,
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """In Markdown."""
    print("\n| " + " | ".join(head) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def report(cases: Sequence[Case], threads: Sequence[int], copies: dict[int, float]) -> None:
    """All tables."""
    stages = list(cases[0].stages_ms)
    table(
        ["one thread, ms an image", "kB", *stages, "one block"],
        [
            [c.name, f"{c.num_bytes / 1e3:.0f}"]
            + [f"{c.stages_ms[stage]:.2f}" for stage in stages]
            + [f"{c.one_block_ms:.2f}"]
            for c in cases
        ],
    )
    for k in threads:
        peers = list(cases[0].ratios)
        head = [f"images/s, threads: {k}", "engine", *peers, *(f"ratio to {p}" for p in peers)]
        rows = [
            [c.name, f"{c.rates['engine'][k]:.1f}"]
            + [f"{c.rates[peer][k]:.1f}" for peer in peers]
            + [f"{c.ratios[peer][k]:.2f}" for peer in peers]
            for c in cases
        ]
        table(head, rows)
    scaling = [
        [f"{c.name}, {peer}", *(f"{by_threads[k]:.2f}" for k in threads)]
        for c in cases
        for peer, by_threads in c.scaling.items()
    ]
    scaling.append(["copying memory", *(f"{copies[k] / copies[1]:.2f}" for k in threads)])
    table(["rate over that of one thread", *map(str, threads)], scaling)
    table(
        ["threads", *map(str, threads)],
        [["copying memory, GB/s", *(f"{copies[k]:.1f}" for k in threads)]]
        + [
            [f"page faults an image, {c.name}", *(f"{c.faults[k]:.0f}" for k in threads)]
            for c in cases
        ],
    )


def report_bars(cases: Sequence[Case]) -> None:
    """What was asked of the first two files."""
    jpeg, page = cases[0], cases[1]
    rows = [
        [f"{jpeg.name}, ratio to Pillow's processor", "3", f"{jpeg.ratios['Pillow'][1]:.2f}"],
        [f"{page.name}, ratio to Pillow's processor", "2", f"{page.ratios['Pillow'][1]:.2f}"],
    ]
    for case in (jpeg, page):
        for peer in ("engine", "features"):
            if 2 in case.scaling[peer]:
                scaling = f"{case.scaling[peer][2]:.2f}"
                rows.append([f"{case.name}, {peer}: two threads over one", "1.7", scaling])
    table(["figure", "asked", "measured"], rows)


def main() -> None:
    """Measures and prints."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    options = parse()
    engine = Engine()
    files = draw_files(options.quick)
    some = next(iter(files.values()))
    default = torch.get_num_threads()
    extra = threads_inside_ours(lambda: engine.resize(engine.load(some)))
    torch.set_num_threads(1)
    peers: dict[str, Work] = {"engine": engine.work, "Pillow": reference("pil")}
    if importlib.util.find_spec("torchvision"):
        peers["torchvision"] = reference("torchvision")
    print(", ".join(f"{key}: {value}" for key, value in machine().items()))
    print(
        f"torch's threads: 1 within each thread, for every peer. With the {default} that it would "
        f"take by itself, a media thread of the engine starts {extra} more."
    )
    start, (busy, own) = time.perf_counter(), busy_seconds()
    copies = {k: copy_rate(k, options.repeats) for k in options.threads}
    cases = [
        measure(name, data, engine, peers, options.threads, options.repeats)
        for name, data in files.items()
    ]
    report(cases, options.threads, copies)
    report_bars(cases)
    all_s, own_s = (now - then for now, then in zip(busy_seconds(), (busy, own), strict=True))
    others = (all_s - own_s) / (time.perf_counter() - start)
    print(f"\nOther programs kept {others:.2f} of {os.cpu_count()} cores busy meanwhile.")
    if options.json:
        result: dict[str, Any] = {"machine": machine(), "threads started inside ours": extra}
        result |= {
            "cores busy with others": others,
            "copies_gb_s": copies,
            "cases": [vars(case) for case in cases],
        }
        options.json.write_text(json.dumps(result, indent=1))


def parse() -> argparse.Namespace:
    """The options, complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two files: a smoke test")
    parser.add_argument("--repeats", type=int, help="5 by default; 1 with --quick")
    parser.add_argument("--threads", help="numbers of threads, by comma; must begin with 1")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    powers = [k for k in (1, 2, 4, 8, 16) if k <= max(2, cores)]
    given = [int(k) for k in options.threads.split(",")] if options.threads else powers
    if options.repeats is None:
        options.repeats = 1 if options.quick else 5
    if given[0] != 1 or min(given) < 1 or options.repeats < 1:
        parser.error("--threads must begin with 1, and every number must be at least 1.")
    options.threads = given
    return options


if __name__ == "__main__":
    main()
