"""Pages as PNG bytes, with the processor cache cold and warm: does anybody wait for the CPU?

    python benchmarks/pages.py [--model qwen25vl-3b] [--pages 256] [--out-len 128] [--repeats 3]

Every page is another one, of 1275×1650 pixels. The prefix cache is off, and the encoder cache is
emptied before each run, so a warm run computes all that a cold one does, but decodes and resizes
nothing. Where media work runs beside the device's, both take the same time. Without ``--model`` the
embedded model looks at few pages; with it, its weights are dummies.
"""

from __future__ import annotations

import argparse
import io
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from checkpoints.shapes import SHAPES, shape
from PIL import Image

from sensorium import LLM, SamplingParams
from sensorium_media_image.kind import ImageKind

WIDTH, HEIGHT = 1275, 1650


def page(seed: int) -> bytes:
    """A smooth picture with grain: what a scanner gives, at a real cost to decode."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (HEIGHT // 16 + 1, WIDTH // 16 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT))).astype(np.int16)
    grain = rng.integers(-6, 6, smooth.shape, dtype=np.int16)
    stream = io.BytesIO()
    picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


class Counted:
    """Counts how often a picture is decoded."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()  # media threads count at once
        load = ImageKind.load

        def counting(kind: ImageKind, *args: Any) -> Any:
            with self._lock:
                self.count += 1
            return load(kind, *args)

        ImageKind.load = counting  # type: ignore[method-assign]


def run(llm: LLM, prompts: Sequence[Any], sampling: SamplingParams, *, cold: bool) -> float:
    """Seconds of one call, its caches emptied before."""
    if cold:
        llm.reset_mm_cache()
    else:
        llm._engine._client.reset_encoder_cache().result()
    start = time.perf_counter()
    outputs = llm.generate(list(prompts), sampling, use_tqdm=False)
    seconds = time.perf_counter() - start
    assert all(output.num_cached_tokens == 0 for output in outputs)
    return seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="of checkpoints/shapes.py, or a folder; weights are drawn")
    parser.add_argument("--pages", type=int)
    parser.add_argument("--out-len", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    num_pages = given.pages or (256 if given.model else 24)
    out_len = given.out_len or (128 if given.model else 8)
    options: dict[str, Any] = {"enable_prefix_caching": False, "max_num_batched_tokens": 8192}
    if given.model:
        options |= {"load_format": "dummy", "dtype": "bfloat16", "max_model_len": 8192}
        options |= {"max_num_seqs": 256, "gpu_memory_utilization": 0.85}
        model = str(shape(given.model)) if given.model in SHAPES else given.model
    else:
        from sensorium_tiny_models import model_path

        model, options["dtype"] = str(model_path()), "float32"
    with ProcessPoolExecutor() as pool:
        files = list(pool.map(page, range(num_pages), chunksize=4))
    counted = Counted()
    sampling = SamplingParams(
        temperature=0.0, repetition_penalty=1.0, max_tokens=out_len, ignore_eos=True
    )
    text = "<|vision_start|><|image_pad|><|vision_end|>What is on this page?"
    prompts = [{"prompt": text, "multi_modal_data": {"image": file}} for file in files]
    with LLM(model, **options) as llm:
        run(llm, prompts[:4], sampling, cold=True)
        times: dict[bool, list[float]] = {True: [], False: []}
        decodes: dict[bool, list[int]] = {True: [], False: []}
        for _ in range(given.repeats):
            for cold in (True, False):
                counted.count = 0
                times[cold].append(run(llm, prompts, sampling, cold=cold))
                decodes[cold].append(counted.count)
    cold_s, warm_s = statistics.median(times[True]), statistics.median(times[False])
    print(f"{num_pages} pages of {WIDTH}×{HEIGHT}, {out_len} new tokens each")
    for name, cold, seconds in (("cold", True, cold_s), ("warm", False, warm_s)):
        spread = ", ".join(f"{s:.2f}" for s in times[cold])
        print(f"  {name}: {seconds:7.2f} s  {num_pages / seconds:6.2f} pages/s  ({spread})")
        print(f"        decoded: {decodes[cold]}")
    print(f"  cold / warm: {cold_s / warm_s:.3f}")


if __name__ == "__main__":
    main()
