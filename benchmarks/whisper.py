"""Ultravox's tower against transformers' ``WhisperEncoder`` of the same shape, on the same device.

    python benchmarks/whisper.py [--model ultravox-1b] [--count 16] [--repeats 5] [--json FILE]

Both get log-mel spectrograms that lie on the device and have random weights in bfloat16 (float32 on
the CPU). transformers' class takes 30 seconds and nothing else, so shorter sounds are padded, as
its users pad them; it attends through torch's ``scaled_dot_product_attention``. Ours has the
projector behind the encoder, which transformers' has not: its time is counted all the same. They
are timed in turn; printed are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoints.shapes import HEARING, shape
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from sensorium.checkpoint import open_checkpoint
from sensorium.config import EngineConfig
from sensorium.engine.model import complete
from sensorium.models.layers import weight_slots
from sensorium.models.load import build_encoder, fill_randomly
from sensorium.plugins import EncoderContext
from sensorium_media_audio.families.ultravox import UltravoxFamily

#: Frames of a spectrogram in a second, and of what transformers' class takes.
FRAMES_PER_S, WINDOW_FRAMES = 100, 3000


@dataclass(frozen=True, slots=True)
class Row:
    """Sounds of one length.

    Attributes:
        ours_ms, theirs_ms: of each repeat.
    """

    seconds: int
    count: int
    ours_ms: list[float]
    theirs_ms: list[float]

    @property
    def ratio(self) -> float:
        """Of the medians: how many times as long theirs takes."""
        return statistics.median(self.theirs_ms) / statistics.median(self.ours_ms)


def our_tower(folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The tower of a folder without weights."""
    family = UltravoxFamily()
    engine = EngineConfig(model=str(folder), load_format="dummy")
    checkpoint = complete(open_checkpoint(engine), family, engine)
    (spec,) = family.encoders
    context = EncoderContext(
        architecture=checkpoint.architecture,
        config=checkpoint.config,
        processor=checkpoint.processor,
        decoder=family.decoder_config(checkpoint.config),
        dtype=dtype,
        device=device,
    )
    tower = build_encoder(spec, context)
    fill_randomly(weight_slots(tower), seed=0)
    return tower


def their_encoder(folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """transformers' encoder of the same shape."""
    given = json.loads((folder / "config.json").read_text())["audio_config"]
    names = ("architectures", "model_type", "_name_or_path", "num_hidden_layers")
    config = WhisperConfig(**{key: value for key, value in given.items() if key not in names})
    config._attn_implementation = "sdpa"
    with torch.device(device):
        encoder: torch.nn.Module = WhisperEncoder(config).to(dtype).eval()
    return encoder


def taken_ms(work: Callable[[], Any], device: torch.device) -> float:
    """Until the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start_s)


@torch.inference_mode()
def measured(
    ours: torch.nn.Module, theirs: torch.nn.Module, mels: Sequence[Tensor], repeats: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each; spectrograms are (frames, bins) float32."""
    weight = next(theirs.parameters())
    device = weight.device
    items = [{"mel": mel} for mel in mels]
    missing = WINDOW_FRAMES - len(mels[0])
    padded = torch.nn.functional.pad(torch.stack(list(mels)), (0, 0, 0, missing))
    window = padded.transpose(1, 2).to(weight.dtype).contiguous()
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        both = (lambda: ours(items)), (lambda: theirs(window))
        for kept, work in zip(times, both, strict=True):
            elapsed_ms = taken_ms(work, device)
            if repeat:
                kept.append(elapsed_ms)
    return times


def main() -> None:
    """Measures and prints."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=HEARING[0 if on_gpu else 1], choices=HEARING)
    parser.add_argument("--count", type=int, default=16 if on_gpu else 2, help="sounds at once")
    parser.add_argument("--seconds", default="10,30", help="lengths, with commas, 30 at most")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keeps every figure")
    given = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    folder = shape(given.model)
    ours, theirs = our_tower(folder, dtype, device), their_encoder(folder, dtype, device)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    print(f"{given.model} in {dtype}, torch {torch.__version__}, {name}")
    print("| sounds | ours, ms | transformers, ms | ratio |\n| --- | ---: | ---: | ---: |")
    rows = []
    for seconds in map(int, given.seconds.split(",")):
        generator = torch.Generator(device).manual_seed(seconds)
        size = (FRAMES_PER_S * seconds, 128)
        mels = [torch.randn(size, generator=generator, device=device) for _ in range(given.count)]
        row = Row(seconds, given.count, *measured(ours, theirs, mels, given.repeats))
        rows.append(row)
        medians = [statistics.median(times) for times in (row.ours_ms, row.theirs_ms)]
        figures = " | ".join(f"{value:.1f}" for value in medians)
        print(f"| {row.count} of {seconds} s | {figures} | {row.ratio:.2f} |", flush=True)
    if given.json:
        kept = {"device": name, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
