"""LLaVA-1.5: its config in every spelling, its prompts, its pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_helpers import (
    loaded,
    make_adapter,
    model_context,
    one_axis_resizes,
    open_folder,
    random_image,
)
from PIL import Image
from tiny_checkpoints import LLAVA_IMAGE_ID, make_llava

from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.types import MediaShape
from sensorium_media_image.families.llava import LlavaFamily, LlavaImages
from sensorium_media_image.manifests import load_manifest

FAMILY = LlavaFamily()
PUBLISHED = load_manifest("llava_1_5_7b")


def published_adapter(
    config: dict[str, Any] | None = None, processor: dict[str, Any] | None = None
) -> LlavaImages:
    return LlavaImages(
        model_context(
            FAMILY,
            {**PUBLISHED.config, **(config or {})},
            PUBLISHED.preprocessor_config if processor is None else processor,
        )
    )


def changed(**entries: Any) -> dict[str, Any]:
    return {**PUBLISHED.preprocessor_config, **entries}


# --- the config -------------------------------------------------------------------------


def test_the_published_config_is_a_llama_of_7_billion() -> None:
    decoder = FAMILY.decoder_config(PUBLISHED.config)
    assert (decoder.hidden_size, decoder.intermediate_size) == (4096, 11008)
    assert (decoder.num_layers, decoder.num_heads, decoder.num_kv_heads) == (32, 32, 32)
    assert (decoder.vocab_size, decoder.max_positions) == (32064, 4096)
    assert (decoder.norm_eps, decoder.rope.theta) == (1e-5, 10000.0)
    assert (decoder.tied, decoder.attention_bias, decoder.dtype) == (False, False, "float16")


def test_transformers_own_spelling_reads_alike(tmp_path: Path) -> None:
    from transformers import LlavaConfig

    published = tmp_path / "config.json"
    published.write_text(json.dumps(PUBLISHED.config))
    own = LlavaConfig.from_pretrained(published)
    assert FAMILY.decoder_config(own.to_dict()) == FAMILY.decoder_config(PUBLISHED.config)
    assert published_adapter(own.to_dict())._tower == published_adapter()._tower


@pytest.mark.parametrize("outer", [None, False])
def test_the_matrices_are_tied_if_either_config_says_so(outer: bool | None) -> None:
    text = {**PUBLISHED.config["text_config"], "tie_word_embeddings": True}
    config = {**PUBLISHED.config, "text_config": text, "tie_word_embeddings": outer}
    assert FAMILY.decoder_config(config).tied


def test_a_qwen2_decoder_is_read_too() -> None:
    text = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 99,
        "max_position_embeddings": 77,
    }
    decoder = FAMILY.decoder_config({**PUBLISHED.config, "text_config": text})
    assert decoder.attention_bias


def test_other_decoders_are_refused_by_name() -> None:
    for text, message in (({"model_type": "gemma"}, "'gemma'"), ("vicuna", "must be an object")):
        with pytest.raises(ConfigError, match=message):
            FAMILY.decoder_config({**PUBLISHED.config, "text_config": text})


# --- prompts ----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_token_counts_are_those_of_transformers(strategy: str, tmp_path: Path) -> None:
    """transformers' processor, with the same strategy, for one item."""
    from transformers import AutoTokenizer, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = make_llava(tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"vision_feature_select_strategy": strategy}
    path.write_text(json.dumps(config))
    (folder / "processor_config.json").unlink()
    processor = LlavaProcessor(
        CLIPImageProcessorPil.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        patch_size=14,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
    )
    adapter = make_adapter(LlavaImages, FAMILY, open_folder(folder))
    for seed, size in enumerate([(56, 56), (100, 30), (33, 200)]):
        pixels = random_image(*size, seed)
        ids = processor(images=Image.fromarray(pixels), text="a<image>b")["input_ids"][0]
        plan = adapter.plan(MediaShape(size), {})
        assert plan.num_tokens == ids.count(LLAVA_IMAGE_ID)
        assert plan.token_ids == (LLAVA_IMAGE_ID,) * plan.num_tokens


def test_the_published_checkpoint_takes_576_tokens_an_image() -> None:
    adapter = published_adapter()
    assert adapter.plan(MediaShape((480, 640)), {}).num_tokens == 576
    assert adapter.worst_case({}, {}) == MediaShape((336, 336))
    placeholder = adapter.placeholder(3)
    assert (placeholder.text, placeholder.token_ids) == ("<image>", (32000,))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (1, 10000), (10000, 1)])
def test_extreme_shapes_work_or_are_refused_with_the_rule(size: tuple[int, int]) -> None:
    adapter = published_adapter()
    if max(size) > 200:
        with pytest.raises(MediaError, match="at most 200 times the shorter"):
            adapter.plan(MediaShape(size), {})
        return
    plan = adapter.plan(MediaShape(size), {})
    pixels = adapter.process(loaded(random_image(*size, seed=1)), plan, {})["tower"]["pixels"]
    assert tuple(pixels.shape) == (336, 336, 3)


# --- pixels -----------------------------------------------------------------------------

SIZES = [(480, 640), (640, 480), (336, 336), (337, 400), (1000, 350), (90, 200)]


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers_pil_backend(size: tuple[int, int]) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        **{**PUBLISHED.preprocessor_config, "do_rescale": False, "do_normalize": False}
    )
    pixels = random_image(*size, seed=2)
    with one_axis_resizes():
        batch = processor(Image.fromarray(pixels), return_tensors="np")
    reference = batch["pixel_values"][0].transpose(1, 2, 0)
    adapter = published_adapter()
    ours = adapter.process(loaded(pixels), adapter.plan(MediaShape(size), {}), {})["tower"][
        "pixels"
    ].numpy()
    assert ours.dtype == np.uint8
    difference = np.abs(ours.astype(int) - reference)
    assert difference.max() <= 2
    assert np.mean(difference > 0) <= 0.01


@pytest.mark.parametrize("size", [*SIZES, (91, 200), (3, 1), (1, 200)])
def test_padded_pixels_are_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    options = changed(do_pad=True)
    processor = LlavaImageProcessorPil(**{**options, "do_rescale": False})
    pixels = random_image(*size, seed=2)
    with one_axis_resizes():  # it takes the colour from the mean, also where it doesn't normalise
        batch = processor(Image.fromarray(pixels), do_normalize=False, return_tensors="np")
    adapter = published_adapter(processor=options)
    ours = adapter.process(loaded(pixels), adapter.plan(MediaShape(size), {}), {})["tower"][
        "pixels"
    ].numpy()
    difference = np.abs(ours.astype(int) - batch["pixel_values"][0].transpose(1, 2, 0))
    assert difference.max() <= 2
    assert np.mean(difference > 0) <= 0.01


def test_a_square_that_would_be_too_large_is_refused() -> None:
    adapter = published_adapter(processor=changed(do_pad=True))
    with pytest.raises(MediaError, match="100000000 pixels once padded to a square; this model"):
        adapter.plan(MediaShape((10000, 100)), {})
    assert published_adapter().plan(MediaShape((10000, 100)), {}).num_tokens == 576


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers_torchvision_backend(size: tuple[int, int]) -> None:
    """Runs where torchvision is: the machine with the accelerator. Computes on the CPU."""
    from transformers.models.clip.image_processing_clip import CLIPImageProcessor

    processor = CLIPImageProcessor(
        **{**PUBLISHED.preprocessor_config, "do_rescale": False, "do_normalize": False}
    )
    pixels = random_image(*size, seed=2)
    batch = processor(Image.fromarray(pixels), return_tensors="pt")
    reference = batch["pixel_values"][0].permute(1, 2, 0).numpy()
    adapter = published_adapter()
    ours = adapter.process(loaded(pixels), adapter.plan(MediaShape(size), {}), {})["tower"][
        "pixels"
    ].numpy()
    assert np.array_equal(ours, reference)


def test_an_image_may_be_squeezed_instead_of_cropped() -> None:
    square = {"height": 336, "width": 336}
    adapter = published_adapter(processor=changed(do_center_crop=False, size=square))
    pixels = random_image(100, 200, seed=3)
    ours = adapter.process(loaded(pixels), adapter.plan(MediaShape((100, 200)), {}), {})["tower"][
        "pixels"
    ]
    with one_axis_resizes():
        image = Image.fromarray(pixels).resize((336, 336), Image.Resampling.BICUBIC)
    assert np.abs(ours.numpy().astype(int) - np.asarray(image)).max() <= 2


@pytest.mark.parametrize(
    "processor",
    [
        {},
        {"size": 336, "crop_size": 336},
        {"image_processor": dict(PUBLISHED.preprocessor_config)},
        {**PUBLISHED.processor_config, **PUBLISHED.preprocessor_config},
    ],
)
def test_other_spellings_of_the_same_options_are_read(processor: dict[str, Any]) -> None:
    adapter = published_adapter(processor=processor)
    pixels = random_image(50, 80, seed=4)
    ours = adapter.process(loaded(pixels), adapter.plan(MediaShape((50, 80)), {}), {})["tower"][
        "pixels"
    ]
    reference = published_adapter()
    expected = reference.process(loaded(pixels), reference.plan(MediaShape((50, 80)), {}), {})
    assert np.array_equal(ours, expected["tower"]["pixels"])


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (changed(do_resize=False), "do_resize is False; only True is built"),
        (changed(do_normalize=False), "do_normalize is False"),
        (changed(do_rescale=False), "do_rescale is False"),
        (changed(do_pad=True, pad_size={"height": 336, "width": 336}), "pad_size is .*; only None"),
        (changed(resample=2), "resample is 2; only 3 is built"),
        (changed(patch_size=16), "patch_size is 16; only 14 is built"),
        (changed(vision_feature_select_strategy="full"), "strategy is 'full'"),
        (changed(crop_size={"height": 224, "width": 224}), "crop_size is .*224.* takes .*336"),
        (changed(size={"shortest_edge": 224}), "size is .*224.* takes .*336"),
        (changed(do_center_crop=False), "do_center_crop is False and size is"),
        ({"image_processor": {"do_resize": False}}, "do_resize is False"),
    ],
)
def test_what_is_not_built_is_refused_by_name(processor: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        published_adapter(processor=processor)


# --- embeddings -------------------------------------------------------------------------


def test_embeddings_are_planned_as_an_image_is() -> None:
    adapter = published_adapter()
    assert adapter.embeds_fields == ()
    assert adapter.plan_embeds(576, {}, {}) == adapter.plan(MediaShape((480, 640)), {})
    for num_rows in (1, 575, 577, 1152):
        with pytest.raises(
            RequestError, match=f"have {num_rows} rows; an image of this model has 576"
        ):
            adapter.plan_embeds(num_rows, {}, {})
