"""A picture by URL, a PIL picture and embeddings of another, in one conversation.

    python examples/chat_parts.py [MODEL] [IMAGE_URL]

Without an address it serves a picture on this machine, so that it needs no network; for addresses
of the Internet leave out ``allow_private_media_hosts``.
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

# Serve a picture, and save embeddings: noise of the right shape, where a tower of one's own would
# have made them.
folder = tempfile.TemporaryDirectory()
ImageAsset("stop_sign").pil_image.save(Path(folder.name) / "512.jpg")
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder.name)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
config = json.loads((Path(model) / "config.json").read_text())
hidden_size = config.get("text_config", config)["hidden_size"]
if config["model_type"] in ("qwen2_vl", "qwen2_5_vl"):
    noise = {
        "image_embeds": torch.randn(1, 4 * 6, hidden_size) / 10,
        "image_grid_thw": torch.tensor([[1, 8, 12]]),
    }
else:
    tower = config["vision_config"]
    num_rows = (tower["image_size"] // tower["patch_size"]) ** 2
    noise = torch.randn(1, num_rows, hidden_size) / 10
torch.save(noise, Path(folder.name) / "embeds.pt")

llm = LLM(model=model, allow_private_media_hosts=["127.0.0.1"])
image_url = sys.argv[2] if len(sys.argv) > 2 else f"http://127.0.0.1:{server.server_port}/512.jpg"
image_pil = ImageAsset("cherry_blossom").pil_image
image_embeds = torch.load(Path(folder.name) / "embeds.pt")

conversation = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I assist you today?"},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": image_url}},
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
server.shutdown()
folder.cleanup()
