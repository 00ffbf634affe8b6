"""Clips as arrays, as tensors and with metadata, in `generate` prompts and in a chat.

    python examples/video_frames.py [MODEL]

Any model that takes video does: LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, MiniCPM-V-2.6.
"""

import sys

import numpy as np
import torch

from sensorium import LLM, SamplingParams

model = sys.argv[1] if len(sys.argv) > 1 else "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
llm = LLM(model, max_model_len=8192, limit_mm_per_prompt={"video": 2})
sampling_params = SamplingParams(temperature=0.2, max_tokens=64)


def draw_frame(i: int) -> np.ndarray:
    """A red square that moves to the right, (height, width, 3) uint8."""
    frame = np.full((112, 168, 3), 255, dtype=np.uint8)
    frame[40:72, 10 + 30 * i : 42 + 30 * i] = (220, 30, 30)
    return frame


# A list of NumPy arrays in the 'video' field of the multi-modal dictionary is one clip.
# <video> stands for the model's own placeholder.
frames = [draw_frame(i) for i in range(4)]
outputs = llm.generate(
    {"prompt": "<video>\nWhat moves?", "multi_modal_data": {"video": frames}},
    sampling_params=sampling_params,
)
print(outputs[0].outputs[0].text)

# So is an array or a tensor of four dimensions; here are two clips, one of them with what its
# reader knows of it. All frames count: they have been chosen before.
array = np.stack(frames)
tensor = torch.from_numpy(array[::-1].copy())
metadata = {"fps": 30.0, "total_num_frames": 120, "frames_indices": [0, 30, 60, 90]}
outputs = llm.generate(
    {
        "prompt": "First: <video> Second: <video> How do they differ?",
        "multi_modal_data": {"video": [tensor, (array, metadata)]},
    },
    sampling_params=sampling_params,
)
print(outputs[0].outputs[0].text)

# In a chat, a part of the type video holds any of these.
conversation = [
    {
        "role": "user",
        "content": [
            {"type": "video", "video": array},
            {"type": "text", "text": "What moves, and where to?"},
        ],
    }
]
outputs = llm.chat(conversation, sampling_params=sampling_params)
print(outputs[0].outputs[0].text)

llm.close()
