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
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from data import Batch, Drawers, Encoder
from evaluate import accuracy, batches, draw
from forward import Forward
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText

MODEL = Path(__file__).parents[1] / "src" / "sensorium_tiny_models" / "model"


def published(model: Any) -> dict[str, torch.Tensor]:
    """The weights in bfloat16 under the names that published checkpoints have, tied head left out."""
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
        inner = f"model.{name}" if name.startswith("visual.") else name.replace(
            "model.", "model.language_model.", 1
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


def ahead(drawers: Drawers) -> Queue[Batch]:
    """Copy batches out of the workers' memory in a thread, a few ahead of the device."""
    queue: Queue[Batch] = Queue(maxsize=4)

    def copy() -> None:
        for batch in drawers:
            queue.put(Batch(batch.groups, batch.pictures.copy()))

    threading.Thread(target=copy, daemon=True).start()
    return queue


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train tiny-vl.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--warm-steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--init", type=Path, help="start from this model.safetensors")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--echo", type=int, default=1, help="uses of each drawn batch")
    parser.add_argument("--eval-items", type=int, default=100, help="items a type and split")
    parser.add_argument("--eval-every", type=float, default=90.0, help="seconds")
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
            row[split] = {k: round(v, 4) for k, v in accuracy(self.forward, items, prepared).items()}
        self.write(**row)
        for split in self.sets:
            print(split, {k: v for k, v in row[split].items()}, flush=True)

    def write(self, **row: Any) -> None:
        with self.file.open("a") as log:
            log.write(json.dumps(row) + "\n")


def train(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    drawers = Drawers(options.workers, options.batch, options.seed)
    queue = ahead(drawers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    config = AutoConfig.from_pretrained(MODEL, attn_implementation="sdpa")
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model = model.to(device).train()
    if options.init:
        load_published(model, options.init)
    forward = Forward(model, device, compiled=options.compile)
    watch = Watch(forward, options.output, options.eval_items)
    optimizer = torch.optim.AdamW(
        groups_of_parameters(model), lr=options.rate, betas=(0.9, 0.98), fused=device.type == "cuda"
    )
    limit_s, step, shown, total, last_test = options.minutes * 60, 0, time.monotonic(), 0.0, begun
    waited, losses = 0.0, []
    print(f"ready after {time.monotonic() - begun:.1f} s on {device}", flush=True)
    while step < options.max_steps and (passed := time.monotonic() - begun) < limit_s:
        asked = time.monotonic()
        batch = queue.get()
        waited += time.monotonic() - asked
        for _ in range(options.echo):
            for settings in optimizer.param_groups:
                settings["lr"] = options.rate * rate(passed / limit_s, step, options.warm_steps)
            with torch.autocast(device.type, torch.bfloat16):
                loss = forward.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            step += 1
        if len(losses) >= 100:
            total = torch.stack(losses).mean().item()
            now = time.monotonic()
            row = {"step": step, "seconds": round(now - begun, 1), "loss": round(total, 4),
                   "steps_per_s": round(len(losses) / (now - shown), 2),
                   "waited": round(waited / (now - shown), 2)}  # fmt: skip
            watch.write(**row)
            print(row, flush=True)
            losses, waited, shown = [], 0.0, now
            if now - last_test > options.eval_every:
                with torch.autocast(device.type, torch.bfloat16):
                    watch.test(step=step, seconds=round(now - begun, 1))
                save(model, options.output)
                last_test = time.monotonic()
    save(model, options.output)
    drawers.close()
    load_published(model, options.output / "model.safetensors")
    watch.test(step=step, seconds=round(time.monotonic() - begun, 1), final=True)


if __name__ == "__main__":
    train(arguments())
