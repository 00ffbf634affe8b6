"""Train tiny-audio. See README.md beside this for how to repeat the run.

    python train_sound.py OUTPUT --minutes 8 [--types beeps direction …] [--resume]

OUTPUT becomes a whole checkpoint: tokenizer, configuration, weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

# Also where the packages aren't installed.
sys.path.insert(0, str(Path(__file__).parents[2] / "core" / "src"))
sys.path.insert(0, str(Path(__file__).parents[2] / "media-audio" / "src"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tiny-models" / "src"))

import torch
from batches import Drawers
from decoder import Forward
from loop import Task, arguments, train
from safetensors.torch import load_file
from sound_data import Encoder, start_drawers
from sound_evaluate import accuracy, draw_set
from sound_files import prepare
from sound_forward import SoundForward, TinyAudio, load_published, published
from sound_room import heard
from speech import Espeak

from sensorium_tiny_models.hearing import QUESTION_TYPES, SPLITS, SPOKEN

#: How much faster or slower training's voices are played at most.
SPREAD = 0.1


def main() -> None:
    """Reads the options and trains."""
    types = ("--types", {"nargs": "+", "choices": QUESTION_TYPES, "default": QUESTION_TYPES})
    small = ("--small", {"action": "store_true", "help": "a twentieth of the model, for a CPU"})
    options = arguments("Train tiny-audio.", types, small)
    chosen = tuple(options.types)
    speaks = any(name in SPOKEN for name in chosen)
    encoder = Encoder(prepare(options.output, small=options.small))
    config = json.loads((options.output / "config.json").read_text())
    tested = Espeak() if speaks else None
    sets = {split: draw_set(encoder, tested, split, options.eval_items, chosen) for split in SPLITS}

    def drawers() -> Drawers:
        speaker = Espeak(SPREAD) if speaks else None
        return start_drawers(encoder, speaker, options.workers, options.batch, options.seed, chosen)

    def make(device: torch.device) -> TinyAudio:
        torch.manual_seed(0)
        model = TinyAudio(config).to(device)
        if options.init:
            load_published(model, load_file(options.init))
        return model

    def accuracies(forward: Forward) -> Iterator[tuple[str, dict[str, float]]]:
        for split, items in sets.items():
            yield split, accuracy(forward, items)

    train(
        options,
        Task(
            drawers=drawers,
            make=make,
            load=lambda model, file: load_published(model, load_file(file)),
            forward=SoundForward,
            published=published,
            accuracies=accuracies,
            prepare=heard,
        ),
    )


if __name__ == "__main__":
    main()
