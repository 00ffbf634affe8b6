"""Embeddings made elsewhere in place of pictures."""

import json
import sys
import tempfile
from pathlib import Path

import torch

from sensorium import LLM

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())

llm = LLM(model=model, limit_mm_per_prompt={"image": 4})

# What a tower of one's own would have saved. The files here hold noise: what matters is the shape,
# (number of images, rows of one image, hidden size of the language model).
config = json.loads((Path(model) / "config.json").read_text())
hidden_size = config.get("text_config", config)["hidden_size"]
folder = Path(tempfile.mkdtemp())
needs_grid = config["model_type"] in ("qwen2_vl", "qwen2_5_vl")

if needs_grid:
    # Qwen2-VL and Qwen2.5-VL place an image by its grid of patches; a row is 2×2 patches
    torch.save(torch.randn(1, 4 * 6, hidden_size) / 10, folder / "embeds.pt")
    torch.save(torch.tensor([[1, 8, 12]]), folder / "grid.pt")
    image_embeds = torch.load(folder / "embeds.pt")
    mm_data = {
        "image": {
            "image_embeds": image_embeds,
            # image_grid_thw is needed to calculate positional encoding.
            "image_grid_thw": torch.load(folder / "grid.pt"),  # torch.Tensor of shape (1, 3),
        }
    }
else:
    tower = config["vision_config"]
    num_rows = (tower["image_size"] // tower["patch_size"]) ** 2
    torch.save(torch.randn(1, num_rows, hidden_size) / 10, folder / "embeds.pt")
    # Embeddings for single image
    # torch.Tensor of shape (1, image_feature_size, hidden_size of LM)
    image_embeds = torch.load(folder / "embeds.pt")
    mm_data = {"image": image_embeds}

# Refer to the model's own page for the correct format to use
prompt = "USER: <image>\nWhat is the content of this image?\nASSISTANT:"

outputs = llm.generate(
    {
        "prompt": prompt,
        "multi_modal_data": mm_data,
    }
)

for o in outputs:
    generated_text = o.outputs[0].text
    print(generated_text)

llm.close()
