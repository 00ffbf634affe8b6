"""Embeddings made elsewhere in place of a picture, sent to a server with OpenAI's client."""

import base64
import io
import json
import sys
from pathlib import Path

import torch
from openai import OpenAI

openai_api_key = "EMPTY"
openai_api_base = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/v1"
try:
    folder = sys.argv[2]
except IndexError:
    from sensorium_tiny_models import model_path

    folder = str(model_path())

client = OpenAI(
    # defaults to os.environ.get("OPENAI_API_KEY")
    api_key=openai_api_key,
    base_url=openai_api_base,
)
model = client.models.list().data[0].id


def encoded(tensor: torch.Tensor) -> str:
    """A tensor as `torch.save` writes it, in base64."""
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    buffer.seek(0)
    binary_data = buffer.read()
    return base64.b64encode(binary_data).decode("utf-8")


# What a tower of one's own would have saved. This is noise: what matters is the shape.
config = json.loads((Path(folder) / "config.json").read_text())
hidden_size = config.get("text_config", config)["hidden_size"]
if config["model_type"] in ("qwen2_vl", "qwen2_5_vl"):
    base64_image_embedding = encoded(torch.randn(1, 4 * 6, hidden_size) / 10)
    base64_image_grid_thw = encoded(torch.tensor([[1, 8, 12]]))
    # Pass additional parameters (available to Qwen2-VL and MiniCPM-V)
    embeds = {
        "type": "image_embeds",
        "image_embeds": {
            "image_embeds": f"{base64_image_embedding}",  # Required
            "image_grid_thw": f"{base64_image_grid_thw}",  # Required by Qwen2-VL
        },
        "uuid": "embeds-1",  # Optional
    }
elif config["model_type"] == "minicpmv":
    # An image that isn't sliced has as many rows as the resampler has queries
    base64_image_embedding = encoded(torch.randn(1, config["query_num"], hidden_size) / 10)
    base64_image_sizes = encoded(torch.tensor([[40, 40]]))
    embeds = {
        "type": "image_embeds",
        "image_embeds": {
            "image_embeds": f"{base64_image_embedding}",  # Required
            "image_sizes": f"{base64_image_sizes}",  # Required by openbmb/MiniCPM-V-2_6
        },
        "uuid": "embeds-1",  # Optional
    }
else:
    tower = config["vision_config"]
    num_rows = (tower["image_size"] // tower["patch_size"]) ** 2
    base64_image_embedding = encoded(torch.randn(1, num_rows, hidden_size) / 10)
    # Basic usage - this is equivalent to the LLaVA example for offline inference
    embeds = {
        "type": "image_embeds",
        "image_embeds": f"{base64_image_embedding}",
        "uuid": "embeds-1",  # Optional
    }


def ask(part: dict[str, object]) -> str:
    """The answer about what the part holds."""
    chat_completion = client.chat.completions.create(
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {
                "role": "user",
                "content": [
                    {
                        "type": "text",
                        "text": "What's in this image?",
                    },
                    part,
                ],
            },
        ],
        model=model,
        temperature=0,
    )
    return chat_completion.choices[0].message.content


print("Chat completion output:", ask(embeds))

# Embeddings that the server knows by their uuid need not be sent again.
known = {"type": "image_embeds", "image_embeds": None, "uuid": "embeds-1"}
print("Chat completion output:", ask(known))
