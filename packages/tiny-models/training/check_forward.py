"""Compare the training's forward pass, patches and positions with transformers' own."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from data import Encoder
from decoder import to_device
from evaluate import batches, draw
from forward import PictureForward, patchify
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
    forward = PictureForward(model, torch.device("cpu"))
    encoder = Encoder(Tokenizer.from_file(str(MODEL / "tokenizer.json")))
    items = draw("train", 5, 3)
    worst = worst_pixel = 0.0
    for numbers, batch in batches(items, encoder):
        one = to_device(batch.groups[0], forward.device)
        pictures = torch.from_numpy(batch.media)
        (ours,) = forward.all_logits([one], pictures)
        shown = [image for number in numbers for image in items[number].images]
        pixels = processor(shown, return_tensors="pt")
        difference = patchify(pictures).flatten(0, 1) - pixels["pixel_values"]
        worst_pixel = max(worst_pixel, float(difference.abs().max()))
        kinds = (one.ids == config.image_token_id).int()
        positions, _ = model.model.get_rope_index(
            one.ids, mm_token_type_ids=kinds, image_grid_thw=pixels["image_grid_thw"]
        )
        last = int(one.places.max() % one.ids.shape[1]) + 1
        row = int(one.places.max() // one.ids.shape[1])
        assert (positions[:, row, :last] == one.positions[:, row, :last]).all()
        theirs = model(
            input_ids=one.ids, pixel_values=pixels["pixel_values"], mm_token_type_ids=kinds,
            image_grid_thw=pixels["image_grid_thw"], attention_mask=torch.ones_like(one.ids),
            position_ids=one.positions,
        ).logits  # fmt: skip
        worst = max(worst, float((theirs.flatten(0, 1)[one.places] - ours).abs().max()))
    print(f"patches differ by {worst_pixel:.2e} at most, logits by {worst:.2e}")
    assert worst_pixel < 1e-5
    assert worst < 1e-3


if __name__ == "__main__":
    main()
