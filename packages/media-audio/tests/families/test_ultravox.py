"""Ultravox through the engine: tokens, prompts, configs, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audio_files import encode, melody
from greedy import Comparison
from tiny_ultravox import MANIFEST, make_ultravox
from ultravox_reference import UltravoxReference

from sensorium import LLM, SamplingParams
from sensorium.errors import ConfigError, RequestError
from sensorium.plugins import EncoderContext
from sensorium_media_audio.families.ultravox import UltravoxFamily
from sensorium_media_audio.manifests import load_manifest
from sensorium_media_audio.mel import log_mel

GREEDY = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)
CLIPS = [melody(s, seed=i) for i, s in enumerate((0.9, 0.01, 2.345, 31.3))]
#: Text and clips by their index, in order.
PROMPTS: list[tuple[str | int, ...]] = [
    ("what is this? ", 0, " answer:"),
    ("the ", 1, " and the ", 2, " differ in"),
    ("no sound at all",),
    (0, "first", 0, 2, "and then one more", 1, "."),
    ("long ", 3, "?"),
    ("what is this? ", 0, " answer again, and at more length:"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ultravox(tmp_path_factory.mktemp("ultravox"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> UltravoxReference:
    return UltravoxReference(folder)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with engine(folder) as made:
        yield made


def engine(folder: Path, **options: Any) -> LLM:
    return LLM(model=str(folder), max_model_len=1024, trust_remote_code=True, **options)


def prompt_of(pieces: tuple[str | int, ...], mark: str = "<|audio|>") -> dict[str, Any]:
    text = "".join(mark if isinstance(piece, int) else piece for piece in pieces)
    clips = [(CLIPS[piece], 16_000) for piece in pieces if isinstance(piece, int)]
    return {"prompt": text, "multi_modal_data": {"audio": clips}} if clips else {"prompt": text}


def pieces_of(
    ids: list[int], pieces: tuple[str | int, ...], reference: UltravoxReference
) -> list[torch.Tensor]:
    """The prompt as the reference takes it: where rows stand, the engine's ids are left out."""
    rows = [
        reference.embed(log_mel(np.pad(CLIPS[p], (0, max(0, 320 - len(CLIPS[p])))), 128))
        for p in pieces
        if isinstance(p, int)
    ]
    parts: list[torch.Tensor] = []
    at = 0
    for embeds in rows:
        start = next(
            i for i in range(at, len(ids)) if ids[i : i + len(embeds)] == [0] * len(embeds)
        )
        parts += [torch.tensor(ids[at:start], dtype=torch.long), embeds]
        at = start + len(embeds)
    return [*parts, torch.tensor(ids[at:], dtype=torch.long)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_num_batched_tokens": 16, "enable_prefix_caching": False},
        {"max_num_seqs": 1, "mm_processor_cache_gb": 0},
    ],
    ids=["defaults", "chunks of 16", "one at a time"],
)
def test_greedy_tokens(folder: Path, reference: UltravoxReference, options: dict[str, Any]) -> None:
    comparison = Comparison()
    with engine(folder, **options) as made:
        for _ in range(2):  # the second time out of the caches
            outputs = made.generate([prompt_of(p) for p in PROMPTS], GREEDY, use_tqdm=False)
            for i, (pieces, output) in enumerate(zip(PROMPTS, outputs, strict=True)):
                answer = list(output.outputs[0].token_ids)
                parts = pieces_of(list(output.prompt_token_ids), pieces, reference)
                comparison.add(reference.logits(parts, answer), answer, f"prompt {i}")
    print(comparison.report())
    assert comparison.num_tokens == 2 * 10 * len(PROMPTS)


def answers(llm: LLM, *prompts: Any) -> list[tuple[int, ...]]:
    outputs = llm.generate(list(prompts), GREEDY, use_tqdm=False)
    return [tuple(output.outputs[0].token_ids) for output in outputs]


def test_the_generic_placeholder_and_every_form(llm: LLM) -> None:
    pieces = PROMPTS[0]
    text = prompt_of(pieces)["prompt"]
    forms: list[Any] = [
        CLIPS[0],
        [CLIPS[0]],
        (CLIPS[0].tolist(), 16_000),
        torch.from_numpy(CLIPS[0]),
        encode(CLIPS[0], 16_000, "WAV", "FLOAT"),
    ]
    expected, generic, *others = answers(
        llm,
        prompt_of(pieces),
        prompt_of(pieces, "<audio>"),
        *({"prompt": text, "multi_modal_data": {"audio": form}} for form in forms),
    )
    assert generic == expected
    assert others == [expected] * len(forms)
    (other,) = answers(llm, {"prompt": text, "multi_modal_data": {"audio": CLIPS[2]}})
    assert other != expected


def test_chat(llm: LLM) -> None:
    import base64

    data = encode(CLIPS[0], 16_000, "WAV", "FLOAT")
    text = base64.b64encode(data).decode()

    def ask(part: dict[str, Any]) -> tuple[int, ...]:
        parts = [{"type": "text", "text": "what is in this?"}, part]
        (output,) = llm.chat([{"role": "user", "content": parts}], GREEDY, use_tqdm=False)
        return tuple(output.outputs[0].token_ids)

    first = ask({"type": "input_audio", "input_audio": {"data": text, "format": "wav"}})
    url = f"data:audio/wav;base64,{text}"
    assert ask({"type": "audio_url", "audio_url": {"url": url}, "uuid": "a clip"}) == first
    assert ask({"type": "audio_url", "audio_url": None, "uuid": "a clip"}) == first
    assert ask({"type": "input_audio", "input_audio": None, "uuid": "a clip"}) == first


def test_embeddings(llm: LLM, reference: UltravoxReference) -> None:
    rows = reference.embed(log_mel(CLIPS[0], 128))
    expected, alone, listed, mapped = answers(
        llm,
        prompt_of(PROMPTS[0]),
        *(
            {"prompt": prompt_of(PROMPTS[0])["prompt"], "multi_modal_data": {"audio": value}}
            for value in (rows[None], [rows], {"audio_embeds": rows})
        ),
    )
    assert alone == listed == mapped == expected
    mixed = prompt_of(("a ", 0, " b ", 2))
    raw, both = answers(
        llm, mixed, {**mixed, "multi_modal_data": {"audio": [rows, (CLIPS[2], 16_000)]}}
    )
    assert both == raw


def test_the_prefix_cache_tells_clips_apart(llm: LLM) -> None:
    pieces = ("hear " * 20, 2, " and say what it is, in some words that fill a page or two:")
    llm.reset_prefix_cache()
    (first,) = llm.generate(prompt_of(pieces), GREEDY, use_tqdm=False)
    (again,) = llm.generate(prompt_of(pieces), GREEDY, use_tqdm=False)
    other = {**prompt_of(pieces), "multi_modal_data": {"audio": CLIPS[2] * 0.5 + 0.01}}
    (different,) = llm.generate(other, GREEDY, use_tqdm=False)
    assert again.num_cached_tokens > different.num_cached_tokens
    assert again.outputs[0].token_ids == first.outputs[0].token_ids


def test_placeholders_and_clips_must_match(llm: LLM) -> None:
    with pytest.raises(RequestError, match="audio"):
        answers(llm, {"prompt": "no mark", "multi_modal_data": {"audio": CLIPS[0]}})


def test_the_text_model_may_lie_elsewhere(folder: Path, tmp_path: Path, llm: LLM) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    (moved / "text").rename(tmp_path / "text")
    config = json.loads((moved / "config.json").read_text())
    config["text_model_id"] = "meta-llama/Llama-3.2-1B-Instruct"
    (moved / "config.json").write_text(json.dumps(config))
    with engine(moved, hf_overrides={"text_model_id": str(tmp_path / "text")}) as made:
        assert answers(made, prompt_of(PROMPTS[0])) == answers(llm, prompt_of(PROMPTS[0]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"text_model_id": None}, "text_config is None and text_model_id is None"),
        ({"text_model_id": 3}, "text_model_id is 3"),
        ({"audio_model_id": "openai/whisper-tiny"}, "audio_model_id is 'openai/whisper-tiny'"),
        ({"audio_config": None}, "audio_config is None"),
        ({"projector_act": "gelu"}, "projector_act is 'gelu'"),
        ({"audio_latency_block_size": 100}, "audio_latency_block_size is 100"),
        ({"stack_factor": 0}, "stack_factor"),
    ],
    ids=str,
)
def test_what_is_not_built(folder: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        engine(folder, hf_overrides=change)


def test_every_published_name_has_its_place_and_its_shape() -> None:
    """The published sizes, on the meta device: nothing is allocated."""
    from sensorium.models.layers import weight_slots
    from sensorium.models.manifests import load_manifest as load_core_manifest

    manifest, family = load_manifest(MANIFEST), UltravoxFamily()
    assert manifest.num_bytes() == manifest.total_bytes == 1_366_237_184
    text = load_core_manifest("llama_3_2_1b")
    assert family.other_configs(manifest.config) == {
        "text_model_id": "meta-llama/Llama-3.2-1B-Instruct"
    }
    config = family.complete_config(manifest.config, {"text_model_id": text.config})
    decoder = family.decoder_config(config)
    assert (decoder.hidden_size, decoder.vocab_size, decoder.tied) == (2048, 128_256, True)
    (spec,) = family.encoders
    context = EncoderContext(
        architecture="UltravoxModel",
        config=config,
        processor=manifest.preprocessor_config,
        decoder=decoder,
        dtype=torch.float32,
        device=torch.device("meta"),
    )
    slots = {name: tuple(slot.shape) for name, slot in weight_slots(spec.build(context)).items()}
    weights = spec.weight_map(config)
    filled = {weights.target(name): shape for name, shape in manifest.shapes().items()}
    assert filled == slots
    body = family.decoder_weights(config)
    assert all(body.claims(name) for name in text.shapes())
    assert not any(weights.claims(name) for name in text.shapes())
