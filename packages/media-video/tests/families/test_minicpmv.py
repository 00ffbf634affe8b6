"""Clips for MiniCPM-V-2.6: the published recipe, its slices, what stands in the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import random_clip
from family_helpers import model_context, open_folder, random_image
from tiny_checkpoints import make_minicpmv

from sensorium import LLM, SamplingParams
from sensorium.errors import RequestError
from sensorium.tokenizer import Tokenizer
from sensorium_media_image.families.minicpmv import MiniCPMVFamily
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.families.minicpmv import MiniCPMVVideo

SHORT = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
#: Rows of a view of the tiny checkpoint.
QUERIES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_minicpmv(tmp_path_factory.mktemp("minicpmv"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 1024}
    with LLM(folder, engine_process=False, **options) as llm:
        yield llm


@pytest.fixture(scope="module")
def adapter(folder: Path) -> MiniCPMVVideo:
    checkpoint = open_folder(folder)
    context = model_context(MiniCPMVFamily(), checkpoint.config, checkpoint.processor)
    return MiniCPMVVideo(replace(context, tokenizer=Tokenizer.load(folder)))


def written(llm: LLM, prompt: str, **data: Any) -> str:
    """The prompt with its items in place, special tokens included."""
    given = {"prompt": prompt, "multi_modal_data": data}
    (output,) = llm.generate(given, SHORT, use_tqdm=False)
    tokenizer = llm.get_tokenizer()
    return str(tokenizer.decode(list(output.prompt_token_ids), skip_special_tokens=False))


def test_frames_stand_in_lines_without_numbers_and_images_keep_theirs(llm: LLM) -> None:
    view = "<image>" + "<unk>" * QUERIES + "</image>"
    sliced = view + ("<slice>" + "<unk>" * QUERIES + "</slice>") * 2
    got = written(
        llm,
        "(<image>./</image>) (<video>./</video>) (<image>./</image>)",
        image=[random_image(40, 40, 1), random_image(30, 30, 2)],
        video=random_clip(2, 60, 110, 1),
    )
    first, second = (f"<image_id>{i}</image_id>" for i in range(2))
    assert got == f"{first}{view} {sliced}\n{sliced} {second}{view}"


@pytest.mark.parametrize(
    ("kwargs", "facts", "num_frames"),
    [
        ({}, {}, 60),
        ({}, {"num_frames": 9000}, 64),
        ({"num_frames": 16}, {}, 16),
        ({"fps": 2}, {}, 120),
        ({"fps": 2, "num_frames": 64}, {}, 64),
        ({}, {"wanted_frames": 8}, 8),
        ({"num_frames": 10}, {"fps": 0.0}, 10),
        ({"num_frames": 2}, {"sampled": True, "num_frames": 5}, 5),
    ],
)
@pytest.mark.parametrize(("slices", "views"), [(None, 3), (1, 1)])
def test_the_recipe(
    adapter: MiniCPMVVideo,
    kwargs: dict[str, Any],
    facts: dict[str, Any],
    num_frames: int,
    slices: int | None,
    views: int,
) -> None:
    """A frame a second, 64 at most, of two slices; vLLM's one slice by the option."""
    clip = ClipFacts(**{"num_frames": 1800, "height": 60, "width": 110, "fps": 30.0, **facts})
    plan = adapter.plan(clip.shape, adapter.options({**kwargs, "video_max_slice_nums": slices}))
    assert plan.num_tokens == num_frames * views * QUERIES


def test_what_is_refused(adapter: MiniCPMVVideo) -> None:
    with pytest.raises(RequestError, match="video_max_slice_nums is 0"):
        adapter.options({"video_max_slice_nums": 0})
    sizes = {"video_image_sizes": torch.tensor([110, 60])}
    options = adapter.options({})
    assert adapter.plan_embeds(24, sizes, options).num_tokens == 24
    with pytest.raises(RequestError, match="a frame takes 12 embedding rows; 25 were given"):
        adapter.plan_embeds(25, sizes, options)
