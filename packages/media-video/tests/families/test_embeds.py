"""Embeddings in place of clips: the same tokens and answers as the clips they are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import opened, random_clip
from family_helpers import load_tower, model_context, open_folder
from tiny_checkpoints import make_minicpmv, make_qwen2vl, make_qwen25vl
from tiny_onevision import make_onevision

from sensorium import LLM, SamplingParams
from sensorium.errors import RequestError
from sensorium.tokenizer import Tokenizer
from sensorium_media_image.families.minicpmv import MiniCPMVFamily
from sensorium_media_image.families.onevision import OneVisionFamily
from sensorium_media_image.families.qwen_vl import QwenVLFamily
from sensorium_media_video.families.minicpmv import MiniCPMVVideo
from sensorium_media_video.families.onevision import OneVisionVideo
from sensorium_media_video.families.qwen_vl import QwenVideo

#: (frames, height, width)
SIZES = [(5, 60, 90), (2, 56, 112)]
GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=8, ignore_eos=True)
#: How a checkpoint is made, its family and adapter, and what must stand beside the rows.
FAMILIES: dict[str, tuple[Callable[..., Path], Any, Any, str | None]] = {
    "qwen2-vl": (make_qwen2vl, QwenVLFamily(), QwenVideo, "video_grid_thw"),
    "qwen2.5-vl": (make_qwen25vl, QwenVLFamily(), QwenVideo, "video_grid_thw"),
    "onevision": (make_onevision, OneVisionFamily(), OneVisionVideo, None),
    "minicpmv": (make_minicpmv, MiniCPMVFamily(), MiniCPMVVideo, "video_image_sizes"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_stand_for_their_clips(name: str, tmp_path: Path) -> None:
    make, family, adapter_class, field = FAMILIES[name]
    folder = make(tmp_path, seed=5)
    checkpoint = open_folder(folder)
    context = model_context(family, checkpoint.config, checkpoint.processor)
    adapter = adapter_class(replace(context, tokenizer=Tokenizer.load(folder)))
    tower = load_tower(family, checkpoint)
    clips = [random_clip(*size, seed) for seed, size in enumerate(SIZES)]
    rows, beside = [], []
    for clip in clips:
        loaded, options = opened(clip), adapter.options({})
        plan = adapter.plan(loaded.shape, options)
        rows.append(tower([adapter.process(loaded, plan, options)["tower"]])[0].embeds)
        if plan.grid:
            time, down, across = plan.grid
            beside.append([time, 2 * down, 2 * across])
        else:
            beside.append([clip.shape[2], clip.shape[1]])
    embeds: dict[str, Any] = {"video_embeds": rows}
    if field is not None:
        embeds[field] = torch.tensor(beside)
    prompt = "<video> and <video> differ in"
    with LLM(folder, device="cpu", dtype="float32", max_model_len=512) as llm:
        by_clip, by_embeds = llm.generate(
            [{"prompt": prompt, "multi_modal_data": {"video": value}} for value in (clips, embeds)],
            GREEDY,
            use_tqdm=False,
        )
        assert by_clip.prompt_token_ids == by_embeds.prompt_token_ids
        assert by_clip.outputs[0].token_ids == by_embeds.outputs[0].token_ids
        wrong = {**embeds, "video_embeds": [one[:-1] for one in rows]}
        with pytest.raises(RequestError, match="rows"):
            llm.generate({"prompt": prompt, "multi_modal_data": {"video": wrong}}, GREEDY)
