"""Greedy tokens of LLaVA-OneVision and MiniCPM-V-2.6 on clips equal their references'.

LLaVA-OneVision's is transformers' own class; MiniCPM-V's is composed of SigLIP and Qwen2
(``minicpmv_reference``), and a clip is what the published recipe makes of its frames: pictures
without numbers in lines of their own. Both get the pixels that our own preprocessing made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_backends import DECODER, TOWER, Attention
from clips import opened, random_clip
from family_helpers import loaded, model_context, open_folder, random_image
from greedy import Comparison, Remembered
from minicpmv_reference import MiniCPMVReference, placeholder, sliced_grid
from PIL import Image
from tiny_checkpoints import make_minicpmv
from tiny_onevision import make_onevision
from transformers import LlavaOnevisionForConditionalGeneration

from sensorium import LLM, SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium_media_image import pieces
from sensorium_media_image.families.minicpmv import MiniCPMVFamily, MiniCPMVImages
from sensorium_media_image.families.onevision import OneVisionFamily, OneVisionImages
from sensorium_media_video.families.minicpmv import MiniCPMVVideo
from sensorium_media_video.families.onevision import OneVisionVideo

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=10, ignore_eos=True)
#: Of prompts that the prefix cache holds: what differs there shows in the tokens behind them.
AGAIN = replace(GREEDY, max_tokens=4)
ENGINES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "chunks of 16, no prefix cache": {
        "max_num_batched_tokens": 16,
        "enable_prefix_caching": False,
    },
}
#: A picture: (height, width). A clip: (frames, height, width).
Size = tuple[int, ...]
#: Words, pictures and clips.
Prompt = tuple[str | Size, ...]
PROMPTS: list[Prompt] = [
    ("what moves? ", (3, 60, 100), " answer:"),
    ("the ", (2, 90, 60), " and the ", (5, 45, 50), " differ in"),
    ("no clip at all",),
    ((1, 50, 84), "first", (80, 60), "a picture", (4, 70, 40), "and then", (40, 40), "."),
    ("what moves? ", (3, 60, 100), " answer at more length, please:"),
]


def value(size: Size) -> Any:
    """One item in three occurs in several prompts."""
    seed = size[0] % 3
    return random_image(*size, seed) if len(size) == 2 else random_clip(*size, seed)


def as_prompt(prompt: Prompt, tags: tuple[str, str]) -> dict[str, Any]:
    """In a family's spelling; ``tags`` of pictures and of clips."""
    sizes = sizes_of(prompt)
    data = {
        "image": [value(size) for size in sizes if len(size) == 2],
        "video": [value(size) for size in sizes if len(size) == 3],
    }
    text = "".join(p if isinstance(p, str) else tags[len(p) - 2] for p in prompt)
    return {"prompt": text, "multi_modal_data": {kind: own for kind, own in data.items() if own}}


def sizes_of(prompt: Prompt) -> list[Size]:
    return [piece for piece in prompt if not isinstance(piece, str)]


class Comparer:
    """Holds answers against a reference's. Derived ones know a family.

    Attributes:
        tags: how pictures and clips are written in a prompt.
    """

    tags: tuple[str, str]
    images: Any
    video: Any
    remembered: Remembered

    def logits(self, output: Any, prompt: Prompt) -> torch.Tensor:
        """(answer, vocabulary), each row before its token."""
        raise NotImplementedError

    def features(self, size: Size) -> Mapping[str, torch.Tensor]:
        """What our own preprocessing makes of an item."""
        is_clip = len(size) == 3
        adapter = self.video if is_clip else self.images
        item = opened(value(size)) if is_clip else loaded(value(size))
        options = adapter.options({})
        made: Mapping[str, torch.Tensor] = adapter.process(
            item, adapter.plan(item.shape, options), options
        )["tower"]
        return made

    def compare(self, outputs: Sequence[Any]) -> Comparison:
        """Answers to ``PROMPTS``, in this order and again."""
        comparison = Comparison()
        for prompt, output in zip([*PROMPTS, *PROMPTS], outputs, strict=True):
            answer = output.outputs[0].token_ids
            given = (prompt, *output.prompt_token_ids, *answer)
            logits = self.remembered.get(given, partial(self.logits, output, prompt))
            comparison.add(logits, answer, f"{prompt}")
        return comparison


class OneVisionComparer(Comparer):
    tags = ("<image>", "<video>")

    def __init__(self, folder: Path) -> None:
        self.model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder).eval()
        self.remembered = Remembered()
        checkpoint = open_folder(folder)
        context = model_context(OneVisionFamily(), checkpoint.config, checkpoint.processor)
        self.images, self.video = OneVisionImages(context), OneVisionVideo(context)

    def rows(self, size: Size) -> torch.Tensor:
        """transformers' rows of a picture or a clip."""
        features = self.features(size)
        name = "frames" if len(size) == 3 else "views"
        values = ((features[name].float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)[None]
        if len(size) == 3:
            rows: torch.Tensor = self.model.model.get_video_features(values).pooler_output[0]
            rows = rows.flatten(0, -2)
            newline: torch.Tensor = self.model.model.image_newline
            # Older releases of transformers add a clip's last row only in its forward pass.
            return rows if torch.equal(rows[-1], newline) else torch.cat([rows, newline[None]])
        made = self.model.model.get_image_features(values, torch.tensor([size]))
        return made.pooler_output[0]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def logits(self, output: Any, prompt: Prompt) -> torch.Tensor:
        answer = output.outputs[0].token_ids
        prompt_ids = torch.tensor(output.prompt_token_ids)
        ids = torch.tensor([*output.prompt_token_ids, *answer])
        x = self.model.get_input_embeddings()(ids)
        config = self.model.config
        pads = (prompt_ids == config.image_token_id) | (prompt_ids == config.video_token_id)
        rows = [self.rows(size) for size in sizes_of(prompt)]
        assert int(pads.sum()) == sum(map(len, rows))
        if rows:
            x[: len(prompt_ids)][pads] = torch.cat(rows)
        logits: torch.Tensor = self.model(inputs_embeds=x[None]).logits[0]
        return logits[-len(answer) - 1 : -1]


class MiniCPMVComparer(Comparer):
    tags = ("(<image>./</image>)", "(<video>./</video>)")

    def __init__(self, folder: Path) -> None:
        self.model = MiniCPMVReference(folder)
        self.remembered = Remembered()
        checkpoint = open_folder(folder)
        context = model_context(MiniCPMVFamily(), checkpoint.config, checkpoint.processor)
        context = replace(context, tokenizer=Tokenizer.load(folder))
        self.images, self.video = MiniCPMVImages(context), MiniCPMVVideo(context)

    def written(self, prompt: Prompt) -> str:
        """The prompt's text as the published code would write it."""
        text, number = "", 0
        for piece in prompt:
            if isinstance(piece, str):
                text += piece
            elif len(piece) == 2:
                grid = sliced_grid(piece[1], piece[0], self.model.scale, self.model.most)
                text += placeholder(number, grid, self.model.queries)
                number += 1
            else:
                grid = sliced_grid(piece[2], piece[1], self.model.scale, 2)
                frame = placeholder(0, grid, self.model.queries)
                frame = re.sub("^<image_id>0</image_id>", "", frame)
                text += "\n".join([frame] * piece[0])
        return text

    def rows(self, size: Size) -> torch.Tensor:
        """The reference's rows, frame by frame: the view, then its slices."""
        features = self.features(size)
        frames = len(features["view"])
        rows = []
        for frame in range(frames):
            slices = features.get("slices", torch.empty(0))
            own = slices[len(slices) // frames * frame : len(slices) // frames * (frame + 1)]
            for view in [features["view"][frame], *own]:
                rows.append(self.model.embeds_of(Image.fromarray(np.asarray(view))))
        return torch.cat(rows)

    def logits(self, output: Any, prompt: Prompt) -> torch.Tensor:
        tokenizer = self.model.tokenizer
        ids = tokenizer(self.written(prompt), add_special_tokens=False).input_ids
        assert list(output.prompt_token_ids) == ids, prompt
        answer = output.outputs[0].token_ids
        rows = [self.rows(size) for size in sizes_of(prompt)]
        return self.model.logits([*ids, *answer], rows)[len(ids) - 1 : -1]


@pytest.fixture(scope="module", params=["onevision", "minicpmv"])
def family(request: pytest.FixtureRequest) -> Any:
    """How a checkpoint is made, and compared."""
    return {
        "onevision": (make_onevision, OneVisionComparer),
        "minicpmv": (make_minicpmv, MiniCPMVComparer),
    }[request.param]


@pytest.fixture(scope="module")
def folder(family: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    made: Path = family[0](tmp_path_factory.mktemp("checkpoint"), seed=7)
    return made


@pytest.fixture(scope="module")
def reference(family: Any, folder: Path) -> Comparer:
    """The same weights in transformers' classes."""
    made: Comparer = family[1](folder)
    return made


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_greedy_tokens_equal_the_references(
    folder: Path, reference: Comparer, options: dict[str, Any], attention: Attention
) -> None:
    given = [as_prompt(prompt, reference.tags) for prompt in PROMPTS]
    options = {"device": "cpu", "dtype": "float32", "max_model_len": 384, **options}
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
    """Every frame a piece of its own, several requests beside each other."""
    monkeypatch.setattr(pieces, "PATCHES_AT_ONCE", 1)
    given = [as_prompt(prompt, reference.tags) for prompt in [*PROMPTS, *PROMPTS]]
    with LLM(folder, device="cpu", dtype="float32", max_model_len=384) as llm:
        outputs = llm.generate(given, GREEDY, use_tqdm=False)
        llm.check_integrity()
    print(reference.compare(outputs).report())


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [16, 2048])
def test_greedy_tokens_on_the_gpu(folder: Path, reference: Comparer, chunk: int) -> None:
    """The same comparison with the engine on CUDA and the reference on the CPU."""
    given = [as_prompt(prompt, reference.tags) for prompt in [*PROMPTS, *PROMPTS]]
    options: dict[str, Any] = {"dtype": "float32", "max_model_len": 384}
    options |= {"kv_cache_memory_bytes": 2**30, "max_num_batched_tokens": chunk}
    with LLM(folder, device="cuda", **options) as llm:
        outputs = llm.generate(given, GREEDY, use_tqdm=False)
        llm.check_integrity()
    print(reference.compare(outputs).report())
