"""The training loop that every model shares: what is trained is told by a ``Task``.

The learning rate follows the clock: it falls to zero at the end of the minutes given, whatever the
machine's speed, so a run always ends with finished weights. A run that was interrupted goes on with
``--resume`` from the state that it writes beside its weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from batches import Drawers
from decoder import Forward
from safetensors.torch import save_file
from steps import Feed, Stepper

WEIGHTS, STATE, LOG = "model.safetensors", "state.pt", "log.jsonl"


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        drawers: starts the worker processes; called before the device is touched.
        make: the model in float32 on a device, its weights random or from a file.
        load: fills a model from a file of published names.
        forward: the model's loss and predictions.
        published: the weights under published names, as the checkpoint holds them.
        accuracies: (split, share of exact answers by question type) of each test set.
        prepare: makes the media that the model takes of those that are drawn, on the device.
    """

    drawers: Callable[[], Drawers]
    make: Callable[[torch.device], Any]
    load: Callable[[Any, Path], None]
    forward: Callable[[Any, torch.device], Forward]
    published: Callable[[Any], dict[str, torch.Tensor]]
    accuracies: Callable[[Forward], Iterator[tuple[str, dict[str, float]]]]
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None


def groups_of_parameters(model: Any) -> list[dict[str, Any]]:
    """Weight decay on matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def rate(progress: float, step: int, warm_steps: int) -> float:
    """Factor on the peak rate: a short rise, then down along a cosine to nothing."""
    rise = min(1.0, (step + 1) / warm_steps)
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def arguments(description: str, *more: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    """The options of every run, and a model's own: (name, settings of ``add_argument``)."""
    parser = argparse.ArgumentParser(description=description)
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
    parser.add_argument("--keep", type=int, default=48, help="recent batches to use again")
    parser.add_argument("--eval-items", type=int, default=50, help="items a type and split")
    parser.add_argument("--eval-every", type=float, default=120.0, help="seconds")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/state.pt")
    for name, settings in more:
        parser.add_argument(name, **settings)
    return parser.parse_args()


class Run:
    """A run's folder: weights, the state to go on from, and the log."""

    def __init__(self, task: Task, options: argparse.Namespace) -> None:
        self.task, self.options, self.folder = task, options, options.output
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, **row: Any) -> None:
        """A line of the log, printed as well."""
        with (self.folder / LOG).open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def test(self, forward: Forward, **row: Any) -> None:
        """Accuracy on every test set."""
        for split, shares in self.task.accuracies(forward):
            row[split] = {name: round(share, 4) for name, share in shares.items()}
        self.write(**row)

    def save(
        self, model: Any, optimizer: torch.optim.Optimizer, step: int, passed_s: float, peak: float
    ) -> None:
        """Weights and state, each so that an interrupted run leaves the last whole one."""
        part = self.folder / "part.tmp"
        save_file(self.task.published(model), part, metadata={"format": "pt"})
        part.replace(self.folder / WEIGHTS)
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "step": step, "passed_s": passed_s, "peak": peak,
        }  # fmt: skip
        torch.save(state, part)
        part.replace(self.folder / STATE)

    def load(self, model: Any, optimizer: torch.optim.Optimizer) -> tuple[int, float, float]:
        """The step, the seconds and the peak rate at which an earlier run was saved."""
        state = torch.load(self.folder / STATE, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return state["step"], state["passed_s"], state["peak"]


def make_optimizer(model: Any, rate: float, device: torch.device) -> torch.optim.AdamW:
    """AdamW, whose rate is a tensor where graphs read it."""
    on_gpu = device.type == "cuda"
    return torch.optim.AdamW(
        groups_of_parameters(model),
        lr=torch.tensor(rate, device=device) if on_gpu else rate,
        betas=(0.9, 0.95), fused=on_gpu, capturable=on_gpu,
    )  # fmt: skip


def train(options: argparse.Namespace, task: Task) -> None:
    """A whole run."""
    begun = time.monotonic()
    run, drawers = Run(task, options), task.drawers()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())  # a stream that can be captured
    torch.set_float32_matmul_precision("high")
    model = task.make(device)
    forward = task.forward(model, device)
    optimizer = make_optimizer(model, options.rate, device)
    limit_s, step, losses, peak = options.minutes * 60, 0, [], options.rate
    if options.resume:
        step, earlier_s, peak = run.load(model, optimizer)
        begun -= earlier_s
    feed = Feed(drawers, device, options.uses, options.keep, task.prepare)
    stepper = Stepper(forward, optimizer, graphs=device.type == "cuda", smoothing=options.smoothing)
    healthy, shown = stepper.snapshot(), time.monotonic()
    last_test, last_step = shown, step
    print(f"ready after {shown - begun:.1f} s on {device}", flush=True)
    while step < options.max_steps and (passed := time.monotonic() - begun) < limit_s:
        stepper.set_rate(peak * rate(passed / limit_s, step, options.warm_steps))
        losses.append(stepper.step(feed.next()))
        step += 1
        if len(losses) >= options.show:
            loss, now = torch.stack(losses).mean().item(), time.monotonic()
            run.write(
                step=step, seconds=round(now - begun, 1), loss=round(loss, 4),
                ms_per_step=round(1e3 * (now - shown) / (step - last_step), 1),
                fresh=feed.num_fresh, again=feed.num_again, waited_s=round(feed.waited_s, 1),
                rate=peak, skipped=stepper.num_skipped.item(),
                largest_norm=round(stepper.largest_norm.item(), 2),
            )  # fmt: skip
            if stepper.num_skipped.item() > len(losses) // 10:
                stepper.restore(healthy)
                peak *= 0.6
            else:
                healthy = stepper.snapshot()
            stepper.num_skipped.zero_()
            stepper.largest_norm.zero_()
            losses, shown, last_step = [], now, step
            if now - last_test > options.eval_every:
                run.test(forward, step=step, seconds=round(now - begun, 1))
                run.save(model, optimizer, step, now - begun, peak)
                last_test = shown = time.monotonic()
    run.save(model, optimizer, step, time.monotonic() - begun, peak)
    drawers.close()
    task.load(model, run.folder / WEIGHTS)
    run.test(forward, step=step, seconds=round(time.monotonic() - begun, 1), final=True)
