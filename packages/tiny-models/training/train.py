"""Train tiny-vl. See README.md beside this for how to repeat the run.

python train.py OUTPUT --minutes 9 [--init FILE] [--clips 0.5]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from data import Encoder, start_drawers
from decoder import Forward
from evaluate import accuracy, batches, draw, draw_clips
from forward import PictureForward
from loop import Task, arguments, train
from safetensors.torch import load_file
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


def make_model(init: Path | None, device: torch.device) -> Any:
    """A model in float32: random, or from a file of weights."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(MODEL, attn_implementation="sdpa")
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).to(device)
    if init:
        load_published(model, init)
    return model


def main() -> None:
    """Reads the options and trains."""
    share = ("--clips", {"type": float, "default": 0.5, "help": "of the batches, 0 to 1"})
    options = arguments("Train tiny-vl.", share)
    encoder = Encoder(Tokenizer.from_file(str(MODEL / "tokenizer.json")))
    sets = {}
    for split in ("train", "heldout"):
        items = draw(split, 101, options.eval_items)
        if options.clips:
            items += draw_clips(split, 101, options.eval_items)
        sets[split] = (items, batches(items, encoder))

    def accuracies(forward: Forward) -> Iterator[tuple[str, dict[str, float]]]:
        for split, (items, prepared) in sets.items():
            yield split, accuracy(forward, items, prepared)

    train(
        options,
        Task(
            drawers=lambda: start_drawers(
                encoder, options.workers, options.batch, options.seed, options.clips
            ),
            make=lambda device: make_model(options.init, device),
            load=load_published,
            forward=PictureForward,
            published=published,
            accuracies=accuracies,
        ),
    )


if __name__ == "__main__":
    main()
