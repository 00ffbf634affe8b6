"""Greedy tokens of the Qwens on clips equal transformers' under the published positions.

The reference (``qwen_video_reference``) was written before the adapter. It is given the frames
that our own preprocessing made, so that only models and positions are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_backends import DECODER, TOWER, Attention, engines
from clips import Frames, opened, random_clip
from family_helpers import loaded, make_adapter, open_folder, random_image
from greedy import Comparison, Remembered
from qwen_video_reference import Item, QwenVideoReference, patches_of
from tiny_checkpoints import QWEN_IDS, make_qwen2vl, make_qwen25vl

from sensorium import LLM, SamplingParams
from sensorium.types import MediaShape
from sensorium_media_image import pieces
from sensorium_media_image.families.qwen_vl import QwenImages, QwenVLFamily
from sensorium_media_video.families.qwen_vl import QwenVideo

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=12, ignore_eos=True)
#: Of prompts that the prefix cache holds: what differs there shows in the tokens behind them.
AGAIN = replace(GREEDY, max_tokens=4)
ENGINES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "chunks of 16": {"max_num_batched_tokens": 16},
    "no prefix cache, chunks of 64": {
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 64,
    },
    "one at a time": {"max_num_seqs": 1},
}
#: A picture: (height, width). A clip: (frames, height, width, frames a second; 0: nobody said).
Size = tuple[int, ...]
#: Words, pictures and clips.
Prompt = tuple[str | Size, ...]
PROMPTS: list[Prompt] = [
    ("what moves? ", (6, 60, 100, 0), " answer:"),
    ("the ", (4, 90, 60, 1.0), " and the ", (7, 56, 56, 8.0), " differ in"),
    ("no clip at all",),
    ((1, 56, 84, 0), "first", (80, 60), "a picture", (5, 70, 40, 0.3), "and then."),
    ("a",),
    ((12, 28, 28, 30.0), "very fast; slow: ", (12, 28, 28, 0.25)),
    ("what moves? ", (6, 60, 100, 0), " answer at more length, please:"),
]


def clip(size: Size) -> Frames:
    """One clip in three occurs in several prompts."""
    return random_clip(*size[:3], seed=size[0] % 3)


def picture(size: Size) -> Any:
    return random_image(*size, seed=size[0] % 3)


def given_clip(size: Size) -> Any:
    """As a caller gives it: frames that a reader has sampled, with or without metadata."""
    frames, fps = clip(size), size[3]
    return (frames, {"fps": fps}) if fps else frames


def as_prompt(pieces: Prompt) -> dict[str, Any]:
    """In the family's own spelling."""
    sizes = [piece for piece in pieces if not isinstance(piece, str)]
    data: dict[str, Any] = {
        "image": [picture(size) for size in sizes if len(size) == 2],
        "video": [given_clip(size) for size in sizes if len(size) == 4],
    }
    text = "".join(
        piece
        if isinstance(piece, str)
        else f"<|vision_start|><|{'image' if len(piece) == 2 else 'video'}_pad|><|vision_end|>"
        for piece in pieces
    )
    return {
        "prompt": text,
        "multi_modal_data": {kind: items for kind, items in data.items() if items},
    }


class Comparer:
    """Holds answers of a folder's model against the reference's."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.reference = QwenVideoReference(folder, dtype)
        self.remembered = Remembered()
        checkpoint = open_folder(folder)
        self.images = make_adapter(QwenImages, QwenVLFamily(), checkpoint)
        self.video = make_adapter(QwenVideo, QwenVLFamily(), checkpoint)

    def item(self, size: Size) -> Item:
        """A picture or a clip, with the pixels that the engine sees."""
        if len(size) == 2:
            adapter, opened_item, seconds = self.images, loaded(picture(size)), 0.0
            assert opened_item.shape == MediaShape(size)
        else:
            adapter, opened_item = self.video, opened(given_clip(size))
            seconds = 2 / (size[3] or 2.0)
        options = adapter.options({})
        plan = adapter.plan(opened_item.shape, options)
        pixels = adapter.process(opened_item, plan, options)["tower"]["pixels"]
        grid = (-(-len(pixels) // 2), pixels.shape[1] // 14, pixels.shape[2] // 14)
        return Item(grid, patches_of(pixels), seconds)

    def logits(self, prompt: Prompt, output: Any) -> torch.Tensor:
        """(answer, vocabulary), each row before its token."""
        answer = output.outputs[0].token_ids
        ids = [*output.prompt_token_ids, *answer]

        def compute() -> torch.Tensor:
            items = [self.item(size) for size in prompt if not isinstance(size, str)]
            return self.reference.logits(ids, items)

        return self.remembered.get((prompt, *ids), compute)[-len(answer) - 1 : -1]

    def compare(self, outputs: Sequence[Any]) -> Comparison:
        """Answers to ``PROMPTS``, in this order and again."""
        comparison = Comparison()
        for prompt, output in zip([*PROMPTS, *PROMPTS], outputs, strict=True):
            answer = output.outputs[0].token_ids
            comparison.add(self.logits(prompt, output), answer, f"{prompt}")
        return comparison


@pytest.fixture(scope="module", params=[make_qwen2vl, make_qwen25vl], ids=["2", "2.5"])
def make(request: pytest.FixtureRequest) -> Any:
    """Each family."""
    return request.param


@pytest.fixture(scope="module")
def folder(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights, whose answers hold no pads by chance."""
    made: Path = make(tmp_path_factory.mktemp("qwen"), seed=5)
    return made


@pytest.fixture(scope="module")
def reference(folder: Path) -> Comparer:
    """The same weights in transformers."""
    return Comparer(folder)


@engines(ENGINES, plain=("defaults", "chunks of 16"))
def test_greedy_tokens_equal_transformers(
    folder: Path, reference: Comparer, options: dict[str, Any], attention: Attention
) -> None:
    given = [as_prompt(prompt) for prompt in PROMPTS]
    options = {"device": "cpu", "dtype": "float32", "max_model_len": 256, **options}
    with LLM(folder, **options) as llm:
        first = llm.generate(given, GREEDY, use_tqdm=False)
        again = llm.generate(given, AGAIN, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER)
    cached = sum(output.num_cached_tokens for output in again)
    assert (cached > 0) == options.get("enable_prefix_caching", True)
    print(reference.compare([*first, *again]).report())


def test_greedy_tokens_of_clips_in_pieces(
    folder: Path, reference: Comparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair of frames a piece of its own, several requests beside each other."""
    monkeypatch.setattr(pieces, "PATCHES_AT_ONCE", 1)
    given = [as_prompt(prompt) for prompt in [*PROMPTS, *PROMPTS]]
    with LLM(folder, device="cpu", dtype="float32", max_model_len=256) as llm:
        outputs = llm.generate(given, GREEDY, use_tqdm=False)
        llm.check_integrity()
    print(reference.compare(outputs).report())


def test_the_answer_depends_on_the_order_of_the_frames(reference: Comparer, folder: Path) -> None:
    """Else the comparison above would prove little."""
    pad = QWEN_IDS["<|video_pad|>"]
    item = reference.item((6, 60, 100, 0))
    times, rows, columns = item.grid
    ids = [*[pad] * (times * rows * columns // 4), 5, 6]
    backwards = torch.cat(torch.split(item.patches, rows * columns)[::-1])
    one, other = (
        reference.reference.logits(ids, [Item(item.grid, patches, item.second_per_grid)])[-1]
        for patches in (item.patches, backwards)
    )
    assert (one - other).abs().max() > 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [16, 2048])
def test_greedy_tokens_on_the_gpu(folder: Path, reference: Comparer, chunk: int) -> None:
    """The same comparison with the engine on CUDA and the reference on the CPU."""
    given = [as_prompt(prompt) for prompt in [*PROMPTS, *PROMPTS]]
    options: dict[str, Any] = {"dtype": "float32", "max_model_len": 256}
    options |= {"kv_cache_memory_bytes": 2**30, "max_num_batched_tokens": chunk}
    with LLM(folder, device="cuda", **options) as llm:
        outputs = llm.generate(given, GREEDY, use_tqdm=False)
        llm.check_integrity()
    print(reference.compare(outputs).report())
