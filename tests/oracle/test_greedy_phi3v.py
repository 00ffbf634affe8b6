"""Greedy tokens of Phi-3.5-vision equal the composed reference's, whatever the engine does.

transformers has no class of the family: the reference is its CLIP and its Phi-3 with the glue
between written anew (``phi3v_reference``). It is given the pixels that our own preprocessing made
(its equality with Pillow's is tested where it lives), so that only the models are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attention_backends import DECODER, TOWER, Attention, engines
from family_helpers import random_image
from greedy_images import (
    ENGINES,
    GREEDY,
    Prompt,
    answer_by_the_server,
    answer_twice,
    check_bfloat16_on_the_gpu,
    check_on_the_gpu,
    compare,
    given,
)
from meeting import let_requests_meet
from phi3v_comparer import Comparer
from PIL import Image
from tiny_checkpoints import make_phi3v

from sensorium import LLM

#: 38 pages of 3 layers × 2 heads × 4 tokens × 16 floats: they hold the two prompts that come
#: first, but not with their answers.
FEW_PAGES: dict[str, Any] = {
    "page_size": 4,
    "max_model_len": 144,
    "kv_cache_memory_bytes": 38 * 2 * 3 * 2 * 4 * 16 * 4,
}
PROMPTS: list[Prompt] = [
    ("<|user|>\nwhat is <|image_1|>?<|end|>\n<|assistant|>\n", [(90, 120)]),
    ("the <|image_2|> and the <|image_1|> differ in", [(60, 200), (300, 80)]),
    ("no picture at all", []),
    ("<|image_1|>first<|image_2|><|image_3|>and then.", [(56, 56), (250, 250), (31, 45)]),
    ("a", []),
    ("what is this? <|image_1|> answer:", [(120, 90)]),
    ("<|user|>\nwhat is <|image_1|>? At more length, please.<|end|>\n", [(90, 120)]),
]
RANKS = [1, 0, 1, 1, 1, 1, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights."""
    return make_phi3v(tmp_path_factory.mktemp("phi3v"), seed=7)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Comparer:
    """The same weights in transformers' classes."""
    return Comparer(folder)


@engines(ENGINES, plain=("defaults", "chunks of 16"))
def test_greedy_tokens_equal_the_references(
    folder: Path, reference: Comparer, options: dict[str, Any], attention: Attention
) -> None:
    options = {"trust_remote_code": True, "max_model_len": 256, **options}
    outputs = answer_twice(folder, PROMPTS, options, attention)
    print(compare(reference, [*PROMPTS, *PROMPTS], outputs).report())


def test_greedy_tokens_by_the_server(folder: Path, reference: Comparer) -> None:
    """Chats, which the family's template puts into words."""
    questions: list[Prompt] = [
        ("what is this?", [(90, 120)]),
        ("no picture at all", []),
        ("and these", [(60, 200), (300, 80)]),
    ]
    outputs = answer_by_the_server(folder, questions, max_model_len=256)
    written: list[Prompt] = []
    for question, sizes in questions:
        tags = "".join(f"<|image_{i + 1}|>\n" for i in range(len(sizes)))
        written.append((f"<|user|>\n{tags}{question}<|end|>\n<|assistant|>\n", sizes))
    print(compare(reference, written, outputs).report())


def test_requests_that_lose_their_pages(
    folder: Path, reference: Comparer, attention: Attention
) -> None:
    with LLM(folder, device="cpu", dtype="float32", **FEW_PAGES) as llm:
        let_requests_meet(llm, len(PROMPTS))
        first = llm.generate(given(PROMPTS), GREEDY, use_tqdm=False, priority=RANKS)
        again = llm.generate(given(PROMPTS), GREEDY, use_tqdm=False)
        llm.check_integrity()
    attention.assert_ran(*DECODER, *TOWER)
    assert sum(output.metrics.num_preemptions for output in first) > 0
    print(compare(reference, [*PROMPTS, *PROMPTS], [*first, *again]).report())


def test_the_second_set_of_rope_factors(tmp_path: Path, attention: Attention) -> None:
    """It holds for an engine that admits more than the original length, and in the reference for
    sequences that are longer."""
    folder = make_phi3v(tmp_path, seed=7, original_len=8)
    asked = [prompt for prompt in PROMPTS if prompt[0] != "a"]  # which is shorter
    with LLM(folder, device="cpu", dtype="float32", max_model_len=256) as llm:
        outputs = llm.generate(given(asked), GREEDY, use_tqdm=False)
    attention.assert_ran(*DECODER, *TOWER)
    print(compare(Comparer(folder), asked, outputs).report())


def test_the_answer_depends_on_the_picture(reference: Comparer) -> None:
    """Else the comparison above would prove nothing."""
    logits = []
    for seed in range(2):
        rows = reference.model.embeds(Image.fromarray(random_image(80, 80, seed)))
        ids = reference.model.token_ids("what is <|image_1|>?", [len(rows)])
        logits.append(reference.model.hidden_and_logits(ids, [rows])[1][-1])
    assert (logits[0] - logits[1]).abs().max() > 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [16, 2048])
def test_greedy_tokens_on_the_gpu(folder: Path, reference: Comparer, chunk: int) -> None:
    options = {"max_model_len": 256, "max_num_batched_tokens": chunk}
    check_on_the_gpu(folder, reference, PROMPTS, **options)


@pytest.mark.gpu
def test_bfloat16_tokens_on_the_gpu_are_the_references_best(
    tmp_path: Path, attention: Attention
) -> None:
    folder = make_phi3v(tmp_path, seed=7, dtype=torch.bfloat16, wide=True)
    check_bfloat16_on_the_gpu(folder, PROMPTS, Comparer, attention, max_model_len=256)
