"""A picture to the tower's input, Phi-3.5-vision and MiniCPM-V-2.6, against the published rules.

    python benchmarks/slices.py [--repeats 15]

The peers do what the checkpoints' own processors do, with Pillow, numpy and torch: they resize, pad
or slice, rescale and normalise, shrink the normalised picture to a view (Phi) and unfold patches
(MiniCPM; Phi's are left to its convolution, while ours are cut). The engine's media threads resize
and slice; what it leaves to the device runs on the CPU here and counts. Both begin with the same
Pillow picture of 1344×1344 pixels and end with the same values, which is checked. Where files are
decoded, the engine makes no Pillow picture, so that copying one into an array counts by itself.

One thread; the two take turns, and times are this thread's CPU seconds, so that other programs
disturb little. Printed: medians, and the medians of the ratios of neighbours, from the array on and
from Pillow's picture on. Asked is 3.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from media import draw_photo, table
from PIL import Image
from torch import Tensor

from sensorium.types import Loaded, MediaShape
from sensorium_media_image.families.minicpmv import MiniCPMVImages
from sensorium_media_image.families.phi3v import Phi3VImages
from sensorium_media_image.manifests import load_manifest
from sensorium_media_image.pictures import decode_value
from sensorium_media_image.towers.minicpmv import read_siglip_normalisation
from sensorium_media_image.towers.normalise import CLIP_MEAN, CLIP_STD, read_normalisation
from sensorium_media_image.towers.phi3v import Phi3VTower, read_phi3v_config

SIDE, TILE, VIEW, PATCH = 1344, 336, 448, 14
CPU = torch.device("cpu")
Values = list[Tensor]
Ours = Callable[[Loaded], Values]
Published = Callable[[], Values]


class Tokens:
    """In place of a tokenizer: an id of its own for each token."""

    def token_to_id(self, token: str) -> int:
        """Any id, the same each time."""
        return 1 + sum(token.encode()) % 31_000

    def encode(self, text: str) -> list[int]:
        """One token."""
        return [0]


def context(manifest: Any) -> Any:
    """What an adapter reads of a checkpoint."""
    decoder = SimpleNamespace(vocab_size=32_064)
    return SimpleNamespace(
        config=manifest.config,
        processor=manifest.preprocessor_config,
        decoder=decoder,
        tokenizer=Tokens(),
    )


def loaded(picture: Image.Image) -> Loaded:
    """As the kind reads it."""
    pixels = decode_value(picture, (255, 255, 255))
    return Loaded(pixels, MediaShape(pixels.shape[:2]))


# --- Phi-3.5-vision --------------------------------------------------------------------


def our_phi(num_crops: int) -> Ours:
    """The global view's patches (1, n, 588) and the tiles' (tiles, n, 588)."""
    manifest = load_manifest("phi_3_5_vision")
    adapter = Phi3VImages(context(manifest))
    options = adapter.options({"num_crops": num_crops})
    normalisation = read_normalisation(manifest.preprocessor_config)
    tower = Phi3VTower(
        read_phi3v_config(manifest.config), 1, normalisation, torch.float32, torch.device("meta")
    )

    def work(image: Loaded) -> Values:
        pixels = adapter.process(image, adapter.plan(image.shape, options), options)["tower"]
        return list(tower.patches(pixels["pixels"]))

    return work


def published_phi(picture: Image.Image, num_crops: int) -> Published:
    """(1 + tiles, 3, 336, 336), uncut; a square picture fills a square of tiles."""
    mean, std = (np.array(constant, dtype=np.float32) for constant in (CLIP_MEAN, CLIP_STD))

    def work() -> Values:
        side = math.isqrt(num_crops) * TILE
        resized = picture.resize((side, side), Image.Resampling.BILINEAR)
        values = (np.asarray(resized, dtype=np.float32) / 255 - mean) / std
        planes = torch.from_numpy(values).permute(2, 0, 1).contiguous()
        view = torch.nn.functional.interpolate(planes[None], (TILE, TILE), mode="bicubic")
        tiles = planes.view(3, side // TILE, TILE, side // TILE, TILE).permute(1, 3, 0, 2, 4)
        return [torch.cat((view, tiles.reshape(-1, 3, TILE, TILE)))]

    return work


# --- MiniCPM-V-2.6 ---------------------------------------------------------------------


def our_minicpm() -> Ours:
    """The view's patches (1, n, 588) and the slices' (9, n, 588)."""
    manifest = load_manifest("minicpm_v_2_6")
    adapter = MiniCPMVImages(context(manifest))
    options = adapter.options({})
    normalisation = read_siglip_normalisation(manifest.preprocessor_config)

    def work(image: Loaded) -> Values:
        parts = adapter.process(image, adapter.plan(image.shape, options), options)["tower"]
        both = (parts["view"], parts["slices"])
        return [normalisation.patches(part, PATCH, CPU) for part in both]

    return work


def published_minicpm(picture: Image.Image) -> Published:
    """Each view's patches (3, 14, n · 14)."""
    half = np.float32(0.5)

    def patches(view: Image.Image) -> Tensor:
        values = (np.asarray(view).astype(np.float32) / 255 - half) / half
        planes = torch.from_numpy(values.transpose(2, 0, 1))[None]
        unfolded = torch.nn.functional.unfold(planes, (PATCH, PATCH), stride=(PATCH, PATCH))
        split = unfolded.reshape(3, PATCH, PATCH, -1).permute(0, 1, 3, 2)
        return split.reshape(3, PATCH, -1)

    def work() -> Values:
        views = [picture.resize((VIEW, VIEW), Image.Resampling.BICUBIC)]
        whole = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        for top in range(0, SIDE, VIEW):
            for left in range(0, SIDE, VIEW):
                views.append(whole.crop((left, top, left + VIEW, top + VIEW)))
        return [patches(view) for view in views]

    return work


# --- measuring -------------------------------------------------------------------------


def check_same(ours: Values, published: Values) -> None:
    """Patch by patch, what both make differs by a rounding on average."""
    mine = torch.cat(ours)
    if len(published) == 1:
        unfolded = torch.nn.functional.unfold(published[0], PATCH, stride=PATCH)
        theirs = unfolded.transpose(1, 2)
    else:
        split = torch.stack(published).view(len(published), 3, PATCH, -1, PATCH)
        theirs = split.permute(0, 3, 1, 2, 4).flatten(2)
    difference = float((mine - theirs).abs().mean())
    assert difference < 2e-3, f"they differ by {difference} on average"


def measure(picture: Image.Image, ours: Ours, published: Published, repeats: int) -> list[str]:
    """Milliseconds of reading, of ours and of theirs; the ratios without and with reading."""
    check_same(ours(loaded(picture)), published())
    times: list[tuple[float, float, float]] = []
    for _ in range(repeats):
        marks = [time.thread_time()]
        image = loaded(picture)
        marks.append(time.thread_time())
        ours(image)
        marks.append(time.thread_time())
        published()
        marks.append(time.thread_time())
        times.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
    medians = [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
    without = statistics.median(theirs / mine for _, mine, theirs in times)
    ratio = statistics.median(theirs / (read + mine) for read, mine, theirs in times)
    return [*(f"{median:.1f}" for median in medians), f"{without:.2f}", f"{ratio:.2f}"]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    picture = draw_photo(SIDE, SIDE, 6)
    cases = {
        "Phi-3.5-vision, num_crops 4": (our_phi(4), published_phi(picture, 4)),
        "Phi-3.5-vision, num_crops 16": (our_phi(16), published_phi(picture, 16)),
        "MiniCPM-V-2.6, 9 slices": (our_minicpm(), published_minicpm(picture)),
    }
    rows = [[name, *measure(picture, *works, repeats)] for name, works in cases.items()]
    heads = ["into an array, ms", "ours, ms", "published, ms", "ratio", "ratio with the array"]
    table([f"{SIDE}×{SIDE}, one thread", *heads], rows)


if __name__ == "__main__":
    main()
