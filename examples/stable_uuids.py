"""Names of one's own for pictures, so that one that is known need not be sent again."""

import sys

from sensorium import LLM
from sensorium.assets.image import ImageAsset

try:
    model = sys.argv[1]
except IndexError:
    from sensorium_tiny_models import model_path

    model = str(model_path())

llm = LLM(model=model)

prompt = "USER: <image><image>\nDescribe the differences.\nASSISTANT:"
img_a = ImageAsset("cherry_blossom").pil_image
img_b = ImageAsset("stop_sign").pil_image

outputs = llm.generate(
    {
        "prompt": prompt,
        "multi_modal_data": {"image": [img_a, img_b]},
        # Provide stable IDs for caching.
        # Requirements (matched by this example):
        #  - Include every modality present in multi_modal_data.
        #  - For lists, provide the same number of entries.
        #  - Use None to fall back to content hashing for that item.
        "multi_modal_uuids": {"image": ["sku-1234-a", None]},
    }
)

for o in outputs:
    print(o.outputs[0].text)

outputs = llm.generate(
    {
        "prompt": prompt,
        # Since img_a is expected to be cached, we can skip sending the actual
        # image entirely.
        "multi_modal_data": {"image": [None, img_b]},
        "multi_modal_uuids": {"image": ["sku-1234-a", None]},
    }
)

for o in outputs:
    print(o.outputs[0].text)
    print(f"found in the processor cache: {o.metrics.processor_hit_rate:.0%} of the images")

llm.close()
