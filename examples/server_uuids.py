"""A picture that a server knows by name need not be sent again; with OpenAI's client."""

import base64
import io
import sys

from openai import OpenAI

from sensorium.assets.image import ImageAsset

openai_api_base = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/v1"
client = OpenAI(api_key="EMPTY", base_url=openai_api_base)
model = client.models.list().data[0].id

buffer = io.BytesIO()
ImageAsset("cherry_blossom").pil_image.save(buffer, "PNG")
url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("utf-8")
image_uuid = "sku-1234-a"

parts = [
    {"type": "image_url", "image_url": {"url": url}, "uuid": image_uuid},
    # The same picture by its name alone, in the forms that there are for it:
    {
        "type": "image_url",
        "image_url": None,
        "uuid": image_uuid,
    },
    {"type": "image_url", "uuid": image_uuid},
    {
        "type": "image_pil",
        "image_pil": None,
        "uuid": image_uuid,
    },
]
for part in parts:
    chat_completion = client.chat.completions.create(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "What's in this image?"}, part]}
        ],
        model=model,
        temperature=0,
        max_completion_tokens=16,
    )
    print("Chat completion output:", chat_completion.choices[0].message.content)
