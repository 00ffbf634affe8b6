"""Train tiny-vl. See README.md beside this for how to repeat the run.

    python train.py OUTPUT --minutes 9 [--init FOLDER]

The learning rate follows the clock: it falls to zero at the end of the minutes given, whatever the
machine's speed, so a run always ends with finished weights.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from data import Drawers, Encoder
from evaluate import accuracy, batches, draw
from forward import Forward
from safetensors.torch import load_file, save_file
from steps import Feed, Stepper
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText

MODEL = Path(__file__).parents[1] / "src" / "sensorium_tiny_models" / "model"


def published(model: Any) -> dict[str, torch.Tensor]:
    """The weights in bfloat16 under published names, without the tied head."""
    names = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        names[name] = tensor.detach().to(torch.bfloat16).cpu().contiguous()
    return names


def load_published(model: Any, file: Path) -> None:
    """Fill the model from published names."""
    own = {}
    for name, tensor in load_file(file).items():
        inner = (
            f"model.{name}"
            if name.startswith("visual.")
            else name.replace("model.", "model.language_model.", 1)
        )
        own[inner] = tensor.float()
    missing, unexpected = model.load_state_dict(own, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise SystemExit(f"{file}: missing {missing}, unexpected {unexpected}")


def save(model: Any, folder: Path) -> None:
    """Write model.safetensors so that an interrupted run leaves the last whole one."""
    part = folder / "part.tmp"
    save_file(published(model), part, metadata={"format": "pt"})
    part.replace(folder / "model.safetensors")


def groups_of_parameters(model: Any) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def rate(progress: float, step: int, warm_steps: int) -> float:
    """Factor on the peak rate: a short rise, then down along a cosine to nothing."""
    rise = min(1.0, (step + 1) / warm_steps)
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train tiny-vl.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--warm-steps", type=int, default=500)
    parser.add_argument("--smoothing", type=float, default=0.0, help="of labels, 0 to 1")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--init", type=Path, help="start from this model.safetensors")
    parser.add_argument("--show", type=int, default=100, help="steps between lines of the log")
    parser.add_argument("--uses", type=int, default=3, help="most uses of a drawn batch")
    parser.add_argument("--eval-items", type=int, default=50, help="items a type and split")
    parser.add_argument("--eval-every", type=float, default=120.0, help="seconds")
    return parser.parse_args()


class Watch:
    """The items that are tested now and then, and the log that the results go to."""

    def __init__(self, forward: Forward, folder: Path, per_type: int) -> None:
        encoder = Encoder(Tokenizer.from_file(str(MODEL / "tokenizer.json")))
        self.forward, self.file = forward, folder / "log.jsonl"
        self.sets = {}
        for split in ("train", "heldout"):
            items = draw(split, 101, per_type)
            self.sets[split] = (items, batches(items, encoder))

    def test(self, **row: Any) -> None:
        for split, (items, prepared) in self.sets.items():
            row[split] = {
                k: round(v, 4) for k, v in accuracy(self.forward, items, prepared).items()
            }
        self.write(**row)
        for split in self.sets:
            print(split, row[split], flush=True)

    def write(self, **row: Any) -> None:
        with self.file.open("a") as log:
            log.write(json.dumps(row) + "\n")


def make_model(device: torch.device, init: Path | None) -> Any:
    """A model in float32: random, or from a file of weights."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(MODEL, attn_implementation="sdpa")
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).to(device)
    if init:
        load_published(model, init)
    return model


def train(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    drawers = Drawers(options.workers, options.batch, options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_stream(torch.cuda.Stream())  # a stream that can be captured
    torch.set_float32_matmul_precision("high")
    model = make_model(device, options.init)
    forward = Forward(model, device)
    watch = Watch(forward, options.output, options.eval_items)
    optimizer = torch.optim.AdamW(
        groups_of_parameters(model),
        lr=torch.tensor(options.rate, device=device) if on_gpu else options.rate,
        betas=(0.9, 0.95), fused=on_gpu, capturable=on_gpu,
    )  # fmt: skip
    feed = Feed(drawers, device, options.uses, keep=48)
    stepper = Stepper(forward, optimizer, graphs=on_gpu, smoothing=options.smoothing)
    limit_s, step, losses, last_test = options.minutes * 60, 0, [], time.monotonic()
    peak, healthy = options.rate, stepper.snapshot()
    shown = last_test
    print(f"ready after {shown - begun:.1f} s on {device}", flush=True)
    while step < options.max_steps and (passed := time.monotonic() - begun) < limit_s:
        stepper.set_rate(peak * rate(passed / limit_s, step, options.warm_steps))
        losses.append(stepper.step(feed.next()))
        step += 1
        if len(losses) >= options.show:
            loss, now = torch.stack(losses).mean().item(), time.monotonic()
            row = {"step": step, "seconds": round(now - begun, 1), "loss": round(loss, 4),
                   "ms_per_step": round(1e3 * (now - shown) / len(losses), 1),
                   "fresh": feed.num_fresh, "again": feed.num_again,
                   "waited_s": round(feed.waited_s, 1), "rate": peak,
                   "skipped": stepper.num_skipped.item(),
                   "largest_norm": round(stepper.largest_norm.item(), 2)}  # fmt: skip
            watch.write(**row)
            print(row, flush=True)
            if stepper.num_skipped.item() > len(losses) // 10:
                stepper.restore(healthy)
                peak *= 0.6
            else:
                healthy = stepper.snapshot()
            stepper.num_skipped.zero_()
            stepper.largest_norm.zero_()
            losses, shown = [], now
            if now - last_test > options.eval_every:
                watch.test(step=step, seconds=round(now - begun, 1))
                save(model, options.output)
                last_test = shown = time.monotonic()
    save(model, options.output)
    drawers.close()
    load_published(model, options.output / "model.safetensors")
    watch.test(step=step, seconds=round(time.monotonic() - begun, 1), final=True)


if __name__ == "__main__":
    train(arguments())
