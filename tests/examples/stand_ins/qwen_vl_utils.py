"""Stands for qwen-vl-utils 0.0.14: what its ``process_vision_info`` returns for one clip.

It needs a reader that tests don't have. A clip of two seconds at 30 frames a second, of which four
frames are chosen by its rule; the frames are drawn here, resized as they would be.

Where torchvision is missing, transformers has no processor of clips either. The example asks one
for its template alone, which is the tokenizer's as well.
"""

import importlib.util

import torch
import transformers

if importlib.util.find_spec("torchvision") is None:
    transformers.AutoProcessor.from_pretrained = transformers.AutoTokenizer.from_pretrained

NUM_FRAMES, FPS = 60, 30.0
INDICES = torch.linspace(0, NUM_FRAMES - 1, 4).round().long()


def process_vision_info(
    conversations, return_video_kwargs=False, return_video_metadata=False, image_patch_size=14
):
    """(images, videos), and the processor's arguments if they are asked for."""
    parts = [
        part
        for message in conversations
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "video"
    ]
    (part,) = parts
    assert part["total_pixels"] > part["min_pixels"]
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(len(INDICES), 3, 56, 84, generator=generator) * 255
    metadata = {
        "fps": FPS,
        "frames_indices": INDICES,
        "total_num_frames": NUM_FRAMES,
        "video_backend": "torchcodec",
    }
    videos = [(frames, metadata)] if return_video_metadata else [frames]
    if not return_video_kwargs:
        return None, videos
    kwargs = {"do_sample_frames": False}
    if not return_video_metadata:
        kwargs["fps"] = [len(INDICES) / NUM_FRAMES * FPS]
    return None, videos, kwargs
