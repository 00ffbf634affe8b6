"""A picture among the messages of a conversation."""

import sys

from sensorium import LLM
from sensorium.assets.image import ImageAsset

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())

llm = LLM(model=model)
image_pil = ImageAsset("cherry_blossom").pil_image

conversation = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can I assist you today?"},
    {
        "role": "user",
        "content": [
            {"type": "image_pil", "image_pil": image_pil},
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
