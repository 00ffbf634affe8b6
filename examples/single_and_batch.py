"""One picture in a prompt, then several prompts at once."""

import sys

from sensorium import LLM
from sensorium.assets.image import ImageAsset

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())

llm = LLM(model=model)

# Refer to the model's own page for the correct format to use
prompt = "USER: <image>\nWhat is the content of this image?\nASSISTANT:"

# Load the image using PIL.Image
image = ImageAsset("cherry_blossom").pil_image

# Single prompt inference
outputs = llm.generate(
    {
        "prompt": prompt,
        "multi_modal_data": {"image": image},
    }
)

for o in outputs:
    generated_text = o.outputs[0].text
    print(generated_text)

# Batch inference
image_1 = ImageAsset("cherry_blossom").pil_image
image_2 = ImageAsset("stop_sign").pil_image
outputs = llm.generate(
    [
        {
            "prompt": "USER: <image>\nWhat is the content of this image?\nASSISTANT:",
            "multi_modal_data": {"image": image_1},
        },
        {
            "prompt": "USER: <image>\nWhat's the color of this image?\nASSISTANT:",
            "multi_modal_data": {"image": image_2},
        },
    ]
)

for o in outputs:
    generated_text = o.outputs[0].text
    print(generated_text)

llm.close()
