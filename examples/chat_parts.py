"""A picture, and embeddings of another, among the messages of a conversation."""

import json
import sys
from pathlib import Path

import torch

from sensorium import LLM
from sensorium.assets.image import ImageAsset

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())

llm = LLM(model=model)
image_pil = ImageAsset("cherry_blossom").pil_image

# Noise of the right shape, where torch.load would read what a tower of one's own has saved.
config = json.loads((Path(model) / "config.json").read_text())
hidden_size = config.get("text_config", config)["hidden_size"]
if config["model_type"] in ("qwen2_vl", "qwen2_5_vl"):
    image_embeds = {
        "image_embeds": torch.randn(1, 4 * 6, hidden_size) / 10,
        "image_grid_thw": torch.tensor([[1, 8, 12]]),
    }
else:
    tower = config["vision_config"]
    num_rows = (tower["image_size"] // tower["patch_size"]) ** 2
    image_embeds = torch.randn(1, num_rows, hidden_size) / 10

conversation = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I assist you today?"},
    {
        "role": "user",
        "content": [
            {"type": "image_pil", "image_pil": image_pil},
            {"type": "image_embeds", "image_embeds": image_embeds},
            {"type": "text", "text": "What's in these images?"},
        ],
    },
]

# Perform inference and log output.
outputs = llm.chat(conversation)

for o in outputs:
    generated_text = o.outputs[0].text
    print(generated_text)

llm.close()
