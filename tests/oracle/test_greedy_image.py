"""Greedy tokens of models that see images equal transformers', whatever the engine does.

The reference is given the pixels that our own preprocessing made (its equality with
transformers' is tested where it lives), so that only the models are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_backends import DECODER, TOWER, Attention, engines
from family_helpers import loaded, make_adapter, open_folder, random_image, raw_patches
from greedy import Comparison, Remembered
from meeting import let_requests_meet
from tiny_checkpoints import LLAVA_IMAGE_ID, QWEN_IDS, make_llava, make_qwen2vl, make_qwen25vl
from transformers import AutoModelForImageTextToText

from sensorium import LLM, SamplingParams
from sensorium.types import MediaShape
from sensorium_media_image.families.llava import LlavaFamily, LlavaImages
from sensorium_media_image.families.qwen_vl import QwenImages, QwenVLFamily
from sensorium_media_image.towers.normalise import Normalisation
from sensorium_media_image.towers.qwen_config import read_tower_config

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=12, ignore_eos=True)
#: Of prompts that the prefix cache holds: what differs there shows in the tokens behind them.
AGAIN = replace(GREEDY, max_tokens=4)
ENGINES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "chunks of 16": {"max_num_batched_tokens": 16},
    "chunks of 64": {"max_num_batched_tokens": 64},
    "chunks of 2048": {"max_num_batched_tokens": 2048},
    "no prefix cache": {"enable_prefix_caching": False},
    "no prefix cache, chunks of 16": {
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 16,
    },
    "one at a time": {"max_num_seqs": 1},
    "no processor cache": {"mm_processor_cache_gb": 0},
    # 36 pages of 3 layers × 2 heads × 4 tokens × 16 floats, for the longest prompt and no more.
    "few pages": {
        "page_size": 4,
        "max_model_len": 144,
        "kv_cache_memory_bytes": 36 * 2 * 3 * 2 * 4 * 16 * 4,
    },
    # 96 rows of 64 floats, for the items of the largest prompt and no more.
    "small encoder cache": {"mm_encoder_cache_gb": 96 * 64 * 4 / 2**30},
}
#: Words between items: (text, item, text, item, …), an item as its (height, width).
Pieces = tuple[str | tuple[int, int], ...]
PROMPTS: list[Pieces] = [
    ("what is this? ", (90, 120), " answer:"),
    ("the ", (60, 200), " and the ", (300, 80), " differ in"),
    ("no picture at all",),
    ((56, 56), "first", (56, 56), (250, 250), "and then one more", (31, 45), "."),
    ("a",),
    ("what is this? ", (120, 90), " answer:"),
    ("what is this? ", (90, 120), " answer again, and at more length, please:"),
]
#: The two prompts of middling length come first: 36 pages hold both, but not with their answers.
RANKS = [1, 0, 1, 1, 1, 1, 0]


@dataclass(frozen=True)
class Case:
    """A family as this test needs it: how a prompt is written, and read by the reference."""

    make: Callable[..., Path]
    family: Any
    adapter: type
    placeholder: str
    image_id: int


CASES = {
    "llava": Case(make_llava, LlavaFamily(), LlavaImages, "<image>", LLAVA_IMAGE_ID),
    "qwen2-vl": Case(
        make_qwen2vl,
        QwenVLFamily(),
        QwenImages,
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_IDS["<|image_pad|>"],
    ),
    "qwen2.5-vl": Case(
        make_qwen25vl,
        QwenVLFamily(),
        QwenImages,
        "<|vision_start|><|image_pad|><|vision_end|>",
        QWEN_IDS["<|image_pad|>"],
    ),
}


class Reference:
    """transformers' model of a folder, given the same prompts."""

    def __init__(self, case: Case, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.case = case
        self.checkpoint = open_folder(folder)
        self.adapter = make_adapter(case.adapter, case.family, self.checkpoint)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
        self.remembered = Remembered()

    def logits(self, ids: list[int], images: list[np.ndarray]) -> torch.Tensor:
        """(len(ids), vocabulary) for a prompt with its items in place."""
        given = (*ids, *((image.shape, image.tobytes()) for image in images))
        return self.remembered.get(given, lambda: self._logits(ids, images))

    def _logits(self, ids: list[int], images: list[np.ndarray]) -> torch.Tensor:
        inputs: dict[str, torch.Tensor] = {"input_ids": torch.tensor([ids])}
        if images:
            inputs |= self.pixel_inputs([self.pixels(image) for image in images])
        if self.case.family.position_axes == 3:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == self.case.image_id).int()
            self.model.model.rope_deltas = None
        with torch.inference_mode():
            return self.model(**inputs).logits[0]

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """One item's uint8 pixels, as the engine's frontend makes them."""
        options = self.adapter.options({})
        plan = self.adapter.plan(MediaShape(image.shape[:2]), options)
        return self.adapter.process(loaded(image), plan, options)["tower"]["pixels"]

    def pixel_inputs(self, items: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same pixels as transformers' own processors would hand them over."""
        mean, std = Normalisation().constants(torch.device("cpu"))
        if self.case.family.position_axes == 1:
            values = [((item.float() - mean) / std).permute(2, 0, 1) for item in items]
            return {"pixel_values": torch.stack(values)}
        config = read_tower_config(self.checkpoint.config, self.checkpoint.architecture)
        rows, grids = zip(*(raw_patches(item, config) for item in items), strict=True)
        values = torch.cat(rows).view(-1, 3, rows[0].shape[1] // 3).float()
        normalised = ((values - mean[:, None]) / std[:, None]).flatten(1)
        return {"pixel_values": normalised, "image_grid_thw": torch.tensor(grids)}


def prompts(case: Case) -> list[dict[str, Any]]:
    """``PROMPTS`` in the family's own spelling."""
    made = []
    for pieces in PROMPTS:
        sizes = [piece for piece in pieces if not isinstance(piece, str)]
        # One item in three occurs in several prompts.
        images = [random_image(*size, seed=size[0] % 3) for size in sizes]
        text = "".join(p if isinstance(p, str) else case.placeholder for p in pieces)
        media = {"multi_modal_data": {"image": images}} if images else {}
        made.append({"prompt": text, **media})
    return made


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each family."""
    return CASES[request.param]


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny checkpoint of it."""
    return case.make(tmp_path_factory.mktemp("checkpoint"), seed=5)


@pytest.fixture(scope="module")
def reference(case: Case, folder: Path) -> Reference:
    """The same weights in transformers."""
    return Reference(case, folder)


@engines(ENGINES, plain=("defaults", "chunks of 16"))
def test_greedy_tokens_equal_transformers(
    case: Case, folder: Path, reference: Reference, options: dict[str, Any], attention: Attention
) -> None:
    given = prompts(case)
    comparison = Comparison()
    few_pages = "kv_cache_memory_bytes" in options
    options = {"device": "cpu", "dtype": "float32", "max_model_len": 256, **options}
    with LLM(folder, **options) as llm:
        if few_pages:
            let_requests_meet(llm, len(given))
        first = llm.generate(given, GREEDY, use_tqdm=False, priority=RANKS)
        again = llm.generate(given, AGAIN, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER)
    cached = sum(output.num_cached_tokens for output in again)
    preempted = sum(output.metrics.num_preemptions for output in first)
    assert (preempted > 0) == few_pages
    assert few_pages or (cached > 0) == options.get("enable_prefix_caching", True)
    for prompt, output in zip([*given, *given], [*first, *again], strict=True):
        answer = output.outputs[0].token_ids
        ids = [*output.prompt_token_ids, *answer]
        images = prompt.get("multi_modal_data", {"image": []})["image"]
        logits = reference.logits(ids, images)[-len(answer) - 1 : -1]
        comparison.add(logits, answer, f"{prompt['prompt']!r}")
    print(comparison.report())


def test_the_answer_depends_on_the_image(
    case: Case, folder: Path, reference: Reference, attention: Attention
) -> None:
    """Else the comparison above would prove nothing."""
    text = f"what is this? {case.placeholder} answer:"
    images = [random_image(80, 80, seed) for seed in range(2)]
    given = [{"prompt": text, "multi_modal_data": {"image": image}} for image in images]
    with LLM(folder, device="cpu", dtype="float32", max_model_len=512) as llm:
        one, other = llm.generate(given, GREEDY, use_tqdm=False)
    attention.assert_ran(*DECODER, *TOWER)
    assert one.outputs[0].token_ids != other.outputs[0].token_ids
    logits = [reference.logits(list(one.prompt_token_ids), [image])[-1] for image in images]
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [16, 2048])
def test_greedy_tokens_on_the_gpu(
    case: Case, folder: Path, reference: Reference, chunk: int
) -> None:
    """The same comparison with the engine on CUDA and the reference on the CPU."""
    given = prompts(case)
    comparison = Comparison()
    options = {"dtype": "float32", "max_model_len": 256, "kv_cache_memory_bytes": 2**30}
    with LLM(folder, device="cuda", max_num_batched_tokens=chunk, **options) as llm:
        outputs = llm.generate([*given, *given], GREEDY, use_tqdm=False)
        llm.check_integrity()
    for prompt, output in zip([*given, *given], outputs, strict=True):
        answer = output.outputs[0].token_ids
        images = prompt.get("multi_modal_data", {"image": []})["image"]
        logits = reference.logits([*output.prompt_token_ids, *answer], images)
        comparison.add(logits[-len(answer) - 1 : -1], answer, f"{prompt['prompt']!r}")
    print(comparison.report())


@pytest.mark.gpu
def test_bfloat16_tokens_on_the_gpu_are_the_references_best(
    case: Case, tmp_path: Path, attention: Attention
) -> None:
    """By CUDA's ops and without them, within twice what bfloat16 does to the reference itself."""
    folder = case.make(tmp_path, seed=7, dtype=torch.bfloat16, wide=True)
    exact, rounded = (Reference(case, folder, dtype) for dtype in (torch.float32, torch.bfloat16))
    given = prompts(case)
    options: dict[str, Any] = {"max_num_batched_tokens": 64, "kv_cache_memory_bytes": 2**30}
    options |= {"max_model_len": 256, "engine_process": False}  # the ops are counted here
    with LLM(folder, device="cuda", dtype="bfloat16", **options) as llm:
        outputs = llm.generate([*given, *given], GREEDY, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER, device="cuda")
    gaps, errors = [], []
    for prompt, output in zip([*given, *given], outputs, strict=True):
        answer = output.outputs[0].token_ids
        images = prompt.get("multi_modal_data", {"image": []})["image"]
        ids = [*output.prompt_token_ids, *answer]
        logits, near = (r.logits(ids, images)[-len(answer) - 1 : -1] for r in (exact, rounded))
        chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        gaps.append(float((logits.amax(-1) - chosen).max()))
        errors.append(float((logits - near.float()).abs().max()))
    print(f"furthest from the best {max(gaps):.3f}, bfloat16's own error {max(errors):.3f}")
    assert max(gaps) < 2 * max(errors)
