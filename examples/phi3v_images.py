"""Several pictures in one prompt, each where its number is."""

import sys

from sensorium import LLM
from sensorium.assets.image import ImageAsset

llm = LLM(
    model=sys.argv[1] if len(sys.argv) > 1 else "microsoft/Phi-3.5-vision-instruct",
    trust_remote_code=True,  # accepted; the checkpoint's own code isn't needed and isn't run
    max_model_len=4096,  # Otherwise, it may not fit in smaller GPUs
    limit_mm_per_prompt={"image": 2},  # The maximum number to accept
)

# Refer to the HuggingFace repo for the correct format to use
prompt = (
    "<|user|>\n<|image_1|>\n<|image_2|>\nWhat is the content of each image?<|end|>\n<|assistant|>\n"
)

# Load the images using PIL.Image
image1 = ImageAsset("cherry_blossom").pil_image
image2 = ImageAsset("stop_sign").pil_image

outputs = llm.generate(
    {
        "prompt": prompt,
        "multi_modal_data": {"image": [image1, image2]},
    }
)

for o in outputs:
    generated_text = o.outputs[0].text
    print(generated_text)

llm.close()
