"""Two kinds in one prompt: a clip of sound, and a stranger's kind that the model never heard of.

The foreign distribution of ``foreign/`` attaches itself to Ultravox, by one name more in its list
of architectures; the reference is transformers' Whisper and Llama with the rows of both kinds in
their places.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from audio_files import encode, melody
from greedy import Comparison
from scents import DISTRIBUTION, MODULE, ROSE, SOURCE, TAR, embedding
from tiny_ultravox import make_ultravox
from ultravox_reference import UltravoxReference

from sensorium import LLM, SamplingParams
from sensorium.outputs import RequestOutput
from sensorium_media_audio.mel import log_mel

GREEDY = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)
SHORT, LONG = melody(0.9), melody(2.345, seed=1)
MARKS = {"scent": "<scent>", "audio": "<|audio|>"}
Pieces = tuple[str | tuple[str, Any], ...]
PROMPTS: tuple[Pieces, ...] = (
    ("It smells of ", ("scent", ROSE), " and sounds like ", ("audio", SHORT), ": it is"),
    (("audio", LONG), " then ", ("scent", TAR), ("audio", SHORT), ("scent", ROSE), " is"),
    ("It sounds like ", ("audio", SHORT), " and smells of ", ("scent", TAR), ": it is"),
    ("It smells of ", ("scent", ROSE), " and of nothing else"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ultravox(tmp_path_factory.mktemp("ultravox"))


@pytest.fixture(scope="module")
def llm(folder: Path, installed: Any) -> Iterator[LLM]:
    with installed(DISTRIBUTION, SOURCE, MODULE):
        adapter = importlib.import_module("scent_for_sensorium.scent").ScentAdapter
        adapter.architectures += ("UltravoxModel",)
        options: dict[str, Any] = {"max_model_len": 256, "max_num_batched_tokens": 16}
        with LLM(folder, dtype="float32", **options) as engine:
            yield engine
            engine.check_integrity()


def prompt_of(pieces: Pieces) -> dict[str, Any]:
    text = "".join(piece if isinstance(piece, str) else MARKS[piece[0]] for piece in pieces)
    media: dict[str, list[Any]] = {}
    for piece in pieces:
        if not isinstance(piece, str):
            kind, value = piece
            media.setdefault(kind, []).append((value, 16_000) if kind == "audio" else value)
    return {"prompt": text, "multi_modal_data": media}


def rows_of(kind: str, value: Any, reference: UltravoxReference) -> torch.Tensor:
    return embedding(value) if kind == "scent" else reference.embed(log_mel(value, 128))


def check(reference: UltravoxReference, pieces: Pieces, output: RequestOutput) -> None:
    """The answer is the reference's with every item's rows where the engine left room for them."""
    ids, parts, at = list(output.prompt_token_ids), [], 0
    for piece in pieces:
        if isinstance(piece, str):
            continue
        rows = rows_of(*piece, reference)
        start = ids.index(0, at)  # both write id 0 under their rows, and no text has it
        assert ids[start : start + len(rows)] == [0] * len(rows)
        parts += [torch.tensor(ids[at:start], dtype=torch.long), rows]
        at = start + len(rows)
    assert 0 not in ids[at:]
    parts.append(torch.tensor(ids[at:], dtype=torch.long))
    answer = list(output.outputs[0].token_ids)
    comparison = Comparison()
    comparison.add(reference.logits(parts, answer), answer, str(pieces[0]))


def test_a_clip_and_a_scent_in_one_prompt(llm: LLM, folder: Path) -> None:
    reference = UltravoxReference(folder)
    prompts = [prompt_of(pieces) for pieces in PROMPTS]
    for _ in range(2):  # the second time out of the caches
        outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
        for pieces, output in zip(PROMPTS, outputs, strict=True):
            check(reference, pieces, output)
    assert all(output.num_cached_tokens > 0 for output in outputs)


def test_both_kinds_in_one_message(llm: LLM) -> None:
    """Parts stand where the conversation has them, whichever kind they are of."""

    def ask(*parts: dict[str, Any]) -> RequestOutput:
        (output,) = llm.chat([{"role": "user", "content": list(parts)}], GREEDY, use_tqdm=False)
        return output

    text = {"type": "text", "text": "what is it?"}
    scent = {"type": "scent", "scent": ROSE}
    url = {"type": "audio_url", "audio_url": {"url": wav_url()}}
    one, other = ask(scent, url, text), ask(url, scent, text)
    tar = ask({"type": "scent", "scent": TAR}, url, text)
    answers = {tuple(output.outputs[0].token_ids) for output in (one, other, tar)}
    assert len(answers) == 3, "order and content of both kinds reach the model"
    assert sorted(one.prompt_token_ids) == sorted(other.prompt_token_ids)


def wav_url() -> str:
    data = base64.b64encode(encode(SHORT, 16_000, "WAV", "PCM_16")).decode()
    return f"data:audio/wav;base64,{data}"
