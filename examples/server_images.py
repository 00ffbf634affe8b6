"""Pictures in chats with a server, one and several, with OpenAI's client.

First: sensorium serve MODEL --limit-mm-per-prompt '{"image": 2}'
"""

import base64
import io
import sys

from openai import OpenAI

from sensorium.assets.image import ImageAsset

openai_api_key = "EMPTY"
openai_api_base = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/v1"


def data_url(name: str) -> str:
    """A picture of the package, where a web address would do as well."""
    buffer = io.BytesIO()
    ImageAsset(name).pil_image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("utf-8")


# Pictures at addresses of your own: pass them behind the server's.
image_url, image_url_duck, image_url_lion = (
    sys.argv[2:5]
    if len(sys.argv) > 4
    else map(data_url, ["stop_sign", "cherry_blossom", "stop_sign"])
)

client = OpenAI(
    api_key=openai_api_key,
    base_url=openai_api_base,
)
model = client.models.list().data[0].id

# Single-image input inference
chat_response = client.chat.completions.create(
    model=model,
    messages=[
        {
            "role": "user",
            "content": [
                # NOTE: The prompt formatting with the image token `<image>` is not needed
                # since the prompt will be processed automatically by the API server.
                {"type": "text", "text": "What’s in this image?"},
                {
                    "type": "image_url",
                    "image_url": {"url": image_url},
                    "uuid": image_url,  # Optional
                },
            ],
        }
    ],
)
print("Chat completion output:", chat_response.choices[0].message.content)

# Multi-image input inference
chat_response = client.chat.completions.create(
    model=model,
    messages=[
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
    ],
)
print("Chat completion output:", chat_response.choices[0].message.content)
