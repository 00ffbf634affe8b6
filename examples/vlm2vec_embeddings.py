"""Pictures and texts as vectors, and how much they have in common: VLM2Vec."""

import sys

from sensorium import LLM
from sensorium.assets.image import ImageAsset

llm = LLM(
    model=sys.argv[1] if len(sys.argv) > 1 else "TIGER-Lab/VLM2Vec-Full",
    task="embed",
    trust_remote_code=True,  # accepted; the checkpoint's own code isn't needed and isn't run
    max_model_len=4096,
    mm_processor_kwargs={"num_crops": 16},
)

# Refer to the HuggingFace repo for the correct format to use: no chat template
question = "<|image_1|> Represent the given image with the following question: What is in the image"
image = ImageAsset("stop_sign").pil_image
candidates = ["A stop sign", "A cherry tree"]

outputs = llm.embed(
    [
        {"prompt": question, "multi_modal_data": {"image": image}},
        *candidates,
    ]
)

query, *vectors = [o.outputs.embedding for o in outputs]
for text, vector in zip(candidates, vectors, strict=True):
    # The vectors have the length 1, so that this is the cosine between them
    print(text, sum(a * b for a, b in zip(query, vector, strict=True)))

llm.close()
