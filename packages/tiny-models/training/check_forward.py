"""Compare the training's forward pass, patches and positions with transformers' own. CPU, seconds."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from data import UNIT, Encoder, fit
from evaluate import batches, draw
from forward import Forward, patchify
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

MODEL = Path(__file__).parents[1] / "src" / "sensorium_tiny_models" / "model"


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(2)
    processor = Qwen2VLImageProcessorPil.from_pretrained(MODEL)
    config = AutoConfig.from_pretrained(MODEL, attn_implementation="sdpa")
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():  # well away from the almost linear start
        parameter.mul_(2.0 if parameter.ndim > 1 else 1.0)
    forward = Forward(model, torch.device("cpu"))
    encoder = Encoder(Tokenizer.from_file(str(MODEL / "tokenizer.json")))
    items = draw("train", 5, 3)
    worst = worst_pixel = 0.0
    for numbers, batch in batches(items, encoder):
        (ours, _), = forward.answers(batch)
        pixels = processor(
            [image for n in numbers for image in items[n].images], return_tensors="pt"
        )
        patches = patchify(torch.from_numpy(batch.pictures)).flatten(0, 1)
        worst_pixel = max(worst_pixel, float((patches - pixels["pixel_values"]).abs().max()))
        one = batch.groups[0]
        ids = torch.from_numpy(one.ids)
        kinds = (ids == config.image_token_id).int()
        positions, _ = model.model.get_rope_index(
            ids, mm_token_type_ids=kinds, image_grid_thw=pixels["image_grid_thw"]
        )
        real = torch.from_numpy(one.labels.cumsum(1) >= 0) | True
        lengths = [int((row != -100).nonzero()[0][-1]) + 1 for row in one.labels]
        for i, length in enumerate(lengths):
            assert (positions[:, i, :length].numpy() == one.positions[:, i, :length]).all()
        theirs = model(
            input_ids=ids, pixel_values=pixels["pixel_values"], mm_token_type_ids=kinds,
            image_grid_thw=pixels["image_grid_thw"], attention_mask=torch.ones_like(ids),
            position_ids=torch.from_numpy(one.positions),
        ).logits  # fmt: skip
        places = torch.from_numpy((one.labels.reshape(-1) != -100).nonzero()[0]) - 1
        worst = max(worst, float((theirs.flatten(0, 1)[places] - ours).abs().max()))
        del real
    print(f"patches differ by {worst_pixel:.2e} at most, logits by {worst:.2e}")
    assert worst_pixel < 1e-5 and worst < 1e-3
    _ = UNIT, fit


if __name__ == "__main__":
    main()
