"""LLaVA-OneVision: pixels, rows and prompts against transformers', its options, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_helpers import (
    load_tower,
    loaded,
    make_adapter,
    model_context,
    one_axis_resizes,
    open_folder,
    random_image,
)
from PIL import Image
from tiny_onevision import ONEVISION_IDS, TILE, make_onevision

from sensorium import LLM, SamplingParams
from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.types import MediaShape
from sensorium_media_image.families.onevision import OneVisionFamily, OneVisionImages
from sensorium_media_image.manifests import load_manifest
from sensorium_media_image.towers.onevision import OneVisionTower

FAMILY = OneVisionFamily()
PUBLISHED = load_manifest("llava_onevision_7b")
#: (height, width): one tile, several, margins on either side, shrunk, strips, a single pixel.
SIZES = [(45, 45), (90, 60), (50, 200), (200, 50), (270, 270), (400, 300), (3, 300), (1, 1)]
SHORT = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_onevision(tmp_path_factory.mktemp("onevision"), seed=3)


@pytest.fixture(scope="module")
def adapter(folder: Path) -> OneVisionImages:
    made = make_adapter(OneVisionImages, FAMILY, open_folder(folder))
    assert isinstance(made, OneVisionImages)
    return made


@pytest.fixture(scope="module")
def tower(folder: Path) -> OneVisionTower:
    tower = load_tower(FAMILY, open_folder(folder))
    assert isinstance(tower, OneVisionTower)
    return tower


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import LlavaOnevisionForConditionalGeneration

    return LlavaOnevisionForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 512}
    with LLM(folder, engine_process=False, **options) as llm:
        yield llm


def published_adapter(
    config: dict[str, Any] | None = None, processor: dict[str, Any] | None = None
) -> OneVisionImages:
    pixels = {**PUBLISHED.processor_config, **PUBLISHED.preprocessor_config, **(processor or {})}
    return OneVisionImages(model_context(FAMILY, {**PUBLISHED.config, **(config or {})}, pixels))


def processed(adapter: OneVisionImages, pixels: Any) -> dict[str, torch.Tensor]:
    plan = adapter.plan(MediaShape(pixels.shape[:2]), {})
    return dict(adapter.process(loaded(pixels), plan, {})["tower"])


# --- the config -------------------------------------------------------------------------


def test_the_published_config_is_a_qwen2_of_7_billion() -> None:
    decoder = FAMILY.decoder_config(PUBLISHED.config)
    assert (decoder.hidden_size, decoder.intermediate_size) == (3584, 18944)
    assert (decoder.num_layers, decoder.num_heads, decoder.num_kv_heads) == (28, 28, 4)
    assert (decoder.vocab_size, decoder.max_positions) == (152128, 32768)
    assert (decoder.norm_eps, decoder.rope.theta) == (1e-6, 1000000.0)
    assert (decoder.tied, decoder.attention_bias, decoder.dtype) == (False, True, "float16")


def test_transformers_own_spelling_reads_alike(tmp_path: Path) -> None:
    from transformers import LlavaOnevisionConfig

    published = tmp_path / "config.json"
    published.write_text(json.dumps(PUBLISHED.config))
    own = LlavaOnevisionConfig.from_pretrained(published).to_dict()
    assert FAMILY.decoder_config(own) == FAMILY.decoder_config(PUBLISHED.config)
    assert published_adapter(own)._anyres == published_adapter()._anyres


def test_an_image_has_as_many_rows_as_the_paper_says() -> None:
    adapter = published_adapter()
    for size, rows in (((384, 384), 729 + 27 * 28), ((1152, 1152), 729 + 81 * 82)):
        assert adapter.plan(MediaShape(size), {}).num_tokens == rows


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("do_resize", False),
        ("do_center_crop", True),
        ("resample", 2),
        ("size", {"height": 336, "width": 336}),
        ("num_image_tokens", 576),
        ("vision_feature_select_strategy", "default"),
        ("image_grid_pinpoints", [[384, 384]]),
        ("image_grid_pinpoints", [[384, 400]]),
        ("image_mean", [0.5]),
    ],
)
def test_other_pixels_are_refused_by_name(entry: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=entry):
        published_adapter(processor={entry: value})


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("vision_feature_select_strategy", "default"),
        ("vision_aspect_ratio", "pad"),
        ("vision_feature_layer", [-2, -1]),
        ("image_grid_pinpoints", "all"),
        ("multimodal_projector_bias", 1),
    ],
)
def test_other_towers_are_refused_by_name(entry: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=entry):
        published_adapter({entry: value})


# --- pixels and rows --------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers(
    folder: Path, adapter: OneVisionImages, size: tuple[int, int]
) -> None:
    """Its processor without rescaling: two levels in three percent of the values at most."""
    from transformers import LlavaOnevisionImageProcessorPil

    pixels = random_image(*size, seed=1)
    processor = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
    with one_axis_resizes():
        made = processor(
            Image.fromarray(pixels), do_rescale=False, do_normalize=False, return_tensors="np"
        )
    expected = np.asarray(made["pixel_values"][0]).transpose(0, 2, 3, 1)
    ours = processed(adapter, pixels)["views"].numpy()
    assert ours.shape == expected.shape
    difference = np.abs(ours.astype(int) - expected)
    assert difference.max() <= 2
    assert np.mean(difference > 0) <= 0.03


def test_rows_are_those_of_transformers(
    adapter: OneVisionImages, tower: OneVisionTower, theirs: Any
) -> None:
    """All sizes in one call, then each image alone."""
    items = [processed(adapter, random_image(*size, seed=2)) for size in SIZES]
    for size, item, output in zip(SIZES, items, tower(items), strict=True):
        values = (item["views"].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        with torch.inference_mode():
            features = theirs.model.get_image_features(
                pixel_values=values[None], image_sizes=torch.tensor([size])
            )
        (expected,) = features.pooler_output
        assert output.embeds.shape == expected.shape, size
        torch.testing.assert_close(output.embeds, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tower([item])[0].embeds, output.embeds, rtol=1e-4, atol=1e-4)


def test_the_rows_depend_on_every_view(adapter: OneVisionImages, tower: OneVisionTower) -> None:
    item = processed(adapter, random_image(90, 60, seed=3))
    (rows,) = tower([item])
    for view in range(len(item["views"])):
        changed = item["views"].clone()
        changed[view] = 255 - changed[view]
        (other,) = tower([{**item, "views": changed}])
        assert not torch.allclose(rows.embeds, other.embeds, atol=1e-3), view


def test_no_items_no_rows(tower: OneVisionTower) -> None:
    assert tower([]) == []


def test_an_image_without_pixels_is_refused(adapter: OneVisionImages) -> None:
    with pytest.raises(MediaError, match="at least one"):
        adapter.plan(MediaShape((0, 5)), {})


# --- prompts ----------------------------------------------------------------------------


def test_each_of_several_images_has_its_own_tiles(llm: LLM, adapter: OneVisionImages) -> None:
    """As in vLLM; transformers gives each of several a single view."""
    images = [random_image(*size, seed=0) for size in ((90, 60), (50, 200))]
    given = {"prompt": "<image> and <image>", "multi_modal_data": {"image": images}}
    (output,) = llm.generate(given, SHORT, use_tqdm=False)
    counts = [adapter.plan(MediaShape(image.shape[:2]), {}).num_tokens for image in images]
    ids = list(output.prompt_token_ids)
    assert ids[: counts[0]] == [ONEVISION_IDS["<image>"]] * counts[0]
    assert ids.count(ONEVISION_IDS["<image>"]) == sum(counts)


def test_chats_are_written_as_published(llm: LLM) -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_pil", "image_pil": Image.fromarray(random_image(TILE, TILE, seed=0))},
    ]
    conversation = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": parts},
    ]
    (output,) = llm.chat(conversation, SHORT, use_tqdm=False)
    assert output.prompt == (
        "<|im_start|>system \nBe short.<|im_end|>"
        "<|im_start|>user <image>\nWhat is it?<|im_end|><|im_start|>assistant\n"
    )


def test_embeddings_stand_for_their_images(
    llm: LLM, adapter: OneVisionImages, tower: OneVisionTower
) -> None:
    images = [random_image(*size, seed=4) for size in ((90, 60), (50, 200))]
    embeds = [tower([processed(adapter, image)])[0].embeds for image in images]
    long = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    given = [
        {"prompt": "<image> <image>:", "multi_modal_data": {"image": value}}
        for value in (images, {"image_embeds": embeds})
    ]
    by_image, by_embeds = llm.generate(given, long, use_tqdm=False)
    assert by_image.prompt_token_ids == by_embeds.prompt_token_ids
    assert by_image.outputs[0].token_ids == by_embeds.outputs[0].token_ids


def test_rows_of_no_image_are_refused(llm: LLM) -> None:
    data = {"image_embeds": torch.zeros(1, 8, 64)}
    with pytest.raises(RequestError, match="no image of this model has so many"):
        llm.generate({"prompt": "<image>", "multi_modal_data": {"image": data}}, SHORT)
