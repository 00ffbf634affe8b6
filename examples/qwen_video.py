"""Qwen2.5-VL on clips that qwen-vl-utils has read, with everything that it returns.

    python examples/qwen_video.py [MODEL] [VIDEO]

Needs `pip install qwen-vl-utils transformers torchvision`, and one of the readers that
qwen-vl-utils knows. Without them, give the file itself: {"video": pathlib.Path(VIDEO)}.
"""

import sys

from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor

from sensorium import LLM, SamplingParams

model_path = sys.argv[1] if len(sys.argv) > 1 else "Qwen/Qwen2.5-VL-3B-Instruct"
video_path = (
    sys.argv[2] if len(sys.argv) > 2 else "https://content.pexels.com/videos/free-videos.mp4"
)

llm = LLM(
    model=model_path,
    gpu_memory_utilization=0.8,
    enforce_eager=True,
    limit_mm_per_prompt={"video": 1},
)

sampling_params = SamplingParams(
    max_tokens=64,
)

video_messages = [
    {"role": "system", "content": "You are a helpful assistant."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "describe this video."},
            {
                "type": "video",
                "video": video_path,
                "total_pixels": 20480 * 28 * 28,
                "min_pixels": 16 * 28 * 28,
            },
        ],
    },
]

messages = video_messages
processor = AutoProcessor.from_pretrained(model_path)
prompt = processor.apply_chat_template(
    messages,
    tokenize=False,
    add_generation_prompt=True,
)

image_inputs, video_inputs = process_vision_info(messages)
mm_data = {}
if video_inputs is not None:
    mm_data["video"] = video_inputs

llm_inputs = {
    "prompt": prompt,
    "multi_modal_data": mm_data,
}

# The rate at which the frames were chosen comes beside the request …
_, video_inputs, video_kwargs = process_vision_info(messages, return_video_kwargs=True)
with_rate = {
    "prompt": prompt,
    "multi_modal_data": {"video": video_inputs},
    "mm_processor_kwargs": video_kwargs,
}

# … or with the frames.
_, video_inputs, video_kwargs = process_vision_info(
    messages, return_video_kwargs=True, return_video_metadata=True
)
with_metadata = {
    "prompt": prompt,
    "multi_modal_data": {"video": video_inputs},
    "mm_processor_kwargs": video_kwargs,
}

outputs = llm.generate([llm_inputs, with_rate, with_metadata], sampling_params=sampling_params)
for o in outputs:
    generated_text = o.outputs[0].text
    print(generated_text)

llm.close()
