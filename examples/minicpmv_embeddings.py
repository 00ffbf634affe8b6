"""Embeddings made elsewhere in place of images, for MiniCPM-V-2.6."""

import json
import sys
import tempfile
from pathlib import Path

import torch

from sensorium import LLM
from sensorium.assets.image import ImageAsset

model = sys.argv[1] if len(sys.argv) > 1 else "openbmb/MiniCPM-V-2_6"

# MiniCPM-V
llm = LLM(model, trust_remote_code=True, limit_mm_per_prompt={"image": 4}, max_model_len=4096)

images = [ImageAsset("cherry_blossom").pil_image, ImageAsset("stop_sign").pil_image]
images = [image.resize((40, 40)) for image in images]  # so small that they aren't sliced
# Construct the prompt based on your model
prompt = (
    "<|im_start|>user\n(<image>./</image>)\n(<image>./</image>)\n"
    "What is the content of each image?<|im_end|>\n<|im_start|>assistant\n"
)

# What a tower and a resampler of one's own would have saved. The file here holds noise.
config_file = Path(model) / "config.json"
config = json.loads(config_file.read_text()) if config_file.is_file() else {}
shape = (len(images), config.get("query_num", 64), config.get("hidden_size", 3584))
file = Path(tempfile.mkdtemp()) / "embeds.pt"
torch.save(torch.randn(shape) / 10, file)

# Embeddings for multiple images
# torch.Tensor of shape (num_images, image_feature_size, hidden_size of LM)
image_embeds = torch.load(file)
mm_data = {
    "image": {
        "image_embeds": image_embeds,
        # image_sizes is needed to calculate details of the sliced image.
        "image_sizes": [image.size for image in images],  # list of image sizes
    }
}

outputs = llm.generate(
    {
        "prompt": prompt,
        "multi_modal_data": mm_data,
    }
)

for o in outputs:
    generated_text = o.outputs[0].text
    print(generated_text)

llm.close()
