"""Pictures by URL in conversations: alone, beside other forms, several, and named by a uuid.

The pictures are served from this machine, so that the example needs no network; for URLs on the
Internet leave out ``allow_private_media_hosts``.
"""

import functools
import http.server
import json
import sys
import tempfile
import threading
from pathlib import Path

import torch

from sensorium import LLM
from sensorium.assets.image import ImageAsset

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())

# Serve two pictures.
folder = tempfile.TemporaryDirectory()
ImageAsset("cherry_blossom").pil_image.save(Path(folder.name) / "duck.png")
ImageAsset("cherry_blossom").pil_image.rotate(90).save(Path(folder.name) / "lion.png")
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder.name)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
image_url_duck = f"http://127.0.0.1:{server.server_port}/duck.png"
image_url_lion = f"http://127.0.0.1:{server.server_port}/lion.png"

llm = LLM(model=model, allow_private_media_hosts=["127.0.0.1"])

# A URL beside a PIL picture and embeddings. The embeddings are noise of the right shape, where
# torch.load would read what a tower of one's own has saved.
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
mixed = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I assist you today?"},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": image_url_duck}},
            {"type": "image_pil", "image_pil": ImageAsset("cherry_blossom").pil_image},
            {"type": "image_embeds", "image_embeds": image_embeds},
            {"type": "text", "text": "What's in these images?"},
        ],
    },
]

# One picture whose URL is its name as well, and two of them.
single = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What's in this image?"},
            {
                "type": "image_url",
                "image_url": {"url": image_url_duck},
                "uuid": image_url_duck,  # Optional
            },
        ],
    }
]
several = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What are the animals in these images?"},
            {
                "type": "image_url",
                "image_url": {"url": image_url_duck},
                "uuid": image_url_duck,  # Optional
            },
            {
                "type": "image_url",
                "image_url": {"url": image_url_lion},
                "uuid": image_url_lion,  # Optional
            },
        ],
    }
]
# What is known by its name needs not be fetched again, nor be given.
known = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What's in this image?"},
            {"type": "image_url", "image_url": None, "uuid": image_url_lion},
        ],
    }
]

for conversation in (mixed, single, several, known):
    outputs = llm.chat(conversation)
    for o in outputs:
        print(o.outputs[0].text)

llm.close()
server.shutdown()
folder.cleanup()
