"""Qwen2-VL and Qwen2.5-VL: their config in every spelling, their prompts, their pixels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_helpers import loaded, model_context, one_axis_resizes, random_image, raw_patches
from PIL import Image

from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.plugins import Slot, TokenizedPrompt
from sensorium.types import MediaShape, PreparedItem
from sensorium_media_image.families.qwen_vl import QwenImages, QwenVLFamily
from sensorium_media_image.manifests import load_manifest
from sensorium_media_image.towers.qwen_config import QWEN2_5_VL, QWEN2_VL, read_tower_config

FAMILY = QwenVLFamily()
PUBLISHED = load_manifest("qwen2_5_vl_3b")


def published_adapter(
    config: dict[str, Any] | None = None, processor: dict[str, Any] | None = None
) -> QwenImages:
    return QwenImages(
        model_context(
            FAMILY,
            {**PUBLISHED.config, **(config or {})},
            PUBLISHED.preprocessor_config if processor is None else processor,
        )
    )


def changed(**entries: Any) -> dict[str, Any]:
    return {**PUBLISHED.preprocessor_config, **entries}


# --- the config -------------------------------------------------------------------------


def test_the_published_config_is_read() -> None:
    decoder = FAMILY.decoder_config(PUBLISHED.config)
    assert (decoder.hidden_size, decoder.intermediate_size) == (2048, 11008)
    assert (decoder.num_layers, decoder.num_heads, decoder.num_kv_heads) == (36, 16, 2)
    assert (decoder.vocab_size, decoder.max_positions) == (151936, 128000)
    assert (decoder.norm_eps, decoder.rope.theta) == (1e-6, 1e6)
    assert decoder.rope.sections == (16, 24, 24)
    assert (decoder.tied, decoder.attention_bias, decoder.output_bias) == (True, True, False)
    assert (decoder.sliding_window, decoder.dtype) == (None, "bfloat16")


def test_transformers_own_spelling_reads_alike(tmp_path: Path) -> None:
    from transformers import Qwen2_5_VLConfig

    published = tmp_path / "config.json"
    published.write_text(json.dumps(PUBLISHED.config))
    own = Qwen2_5_VLConfig.from_pretrained(published).to_dict()
    assert "rope_parameters" in own["text_config"]
    assert FAMILY.decoder_config(own) == FAMILY.decoder_config(PUBLISHED.config)
    assert read_tower_config(own, QWEN2_5_VL) == read_tower_config(PUBLISHED.config, QWEN2_5_VL)


def test_qwen2_vl_differs_in_its_tower_alone(tmp_path: Path) -> None:
    from transformers import Qwen2VLConfig

    older = load_manifest("qwen2_vl_2b")
    decoder = FAMILY.decoder_config(older.config)
    assert (decoder.hidden_size, decoder.intermediate_size) == (1536, 8960)
    assert (decoder.num_layers, decoder.num_heads, decoder.num_kv_heads) == (28, 12, 2)
    assert (decoder.vocab_size, decoder.max_positions, decoder.tied) == (151936, 32768, True)
    assert decoder.rope.sections == (16, 24, 24)
    published = tmp_path / "config.json"
    published.write_text(json.dumps(older.config))
    own = Qwen2VLConfig.from_pretrained(published).to_dict()
    assert FAMILY.decoder_config(own) == decoder
    assert read_tower_config(own, QWEN2_VL) == read_tower_config(older.config, QWEN2_VL)
    adapter = QwenImages(model_context(FAMILY, older.config, older.preprocessor_config))
    options = adapter.options({})
    assert options == published_adapter().options({})
    assert adapter.plan(MediaShape((480, 640)), options) == published_adapter().plan(
        MediaShape((480, 640)), options
    )


def test_what_a_config_omits_is_the_published_default() -> None:
    from transformers import Qwen2_5_VLConfig

    reference = Qwen2_5_VLConfig().text_config
    for config in ({}, {"text_config": {}}):
        decoder = FAMILY.decoder_config(config)
        assert decoder.hidden_size == reference.hidden_size
        assert decoder.intermediate_size == reference.intermediate_size
        assert decoder.num_layers == reference.num_hidden_layers
        assert decoder.num_heads == reference.num_attention_heads
        assert decoder.num_kv_heads == reference.num_key_value_heads
        assert decoder.vocab_size == reference.vocab_size
        assert decoder.max_positions == reference.max_position_embeddings
        assert decoder.norm_eps == reference.rms_norm_eps
        assert decoder.rope.theta == reference.rope_parameters["rope_theta"]
        assert decoder.rope.sections == (16, 24, 24)
        assert not decoder.tied


def test_two_sections_are_refused() -> None:
    scaling = {"type": "mrope", "mrope_section": [32, 32]}
    with pytest.raises(ConfigError, match=r"mrope_section is \[32, 32\]; it must have three"):
        FAMILY.decoder_config({**PUBLISHED.config, "rope_scaling": scaling})


# --- prompts ----------------------------------------------------------------------------


def test_token_counts_are_those_of_transformers() -> None:
    """A few hundred sizes, with the published bounds and with the class's."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    draw = random.Random(1)
    for processor in (dict(PUBLISHED.preprocessor_config), {}):
        reference = Qwen2VLImageProcessorPil(**processor)
        adapter = published_adapter(processor=processor)
        options = adapter.options({})
        for _ in range(200):
            height, width = (int(10 ** draw.uniform(0.5, 3.6)) for _ in range(2))
            if max(height, width) > 200 * min(height, width):
                continue
            plan = adapter.plan(MediaShape((height, width)), options)
            patches = reference.get_number_of_image_patches(height, width)
            assert plan.num_tokens == patches // 4
            assert plan.token_ids == (151655,) * plan.num_tokens
            assert np.prod(plan.grid) == plan.num_tokens


def test_the_placeholder_stands_between_its_start_and_end() -> None:
    placeholder = published_adapter().placeholder(1)
    assert placeholder.text == "<|image_pad|>"
    assert placeholder.token_ids == (151655,)
    assert placeholder.in_context == "<|vision_start|><|image_pad|><|vision_end|>"


def test_a_prompt_is_composed_with_positions_on_three_axes() -> None:
    adapter = published_adapter()
    options = adapter.options({})
    items = []
    for index, size in enumerate([(56, 84), (112, 56)]):
        plan = adapter.plan(MediaShape(size), options)
        items.append(PreparedItem("image", index, bytes([index] * 32), plan, {}))
    prompt = TokenizedPrompt(
        (10, 1, 151655, 2, 11, 1, 151655, 2, 12), (Slot("image", 0, 2, 1), Slot("image", 1, 6, 1))
    )
    composed = FAMILY.compose(prompt, items, {"image": adapter}, adapter.context)
    assert composed.token_ids == (10, 1, *[151655] * 6, 2, 11, 1, *[151655] * 8, 2, 12)
    assert [(span.offset, span.length) for span in composed.spans] == [(2, 6), (11, 8)]
    assert composed.positions is not None
    assert composed.positions[:, 2:8].tolist() == [
        [2, 2, 2, 2, 2, 2],
        [2, 2, 2, 3, 3, 3],
        [2, 3, 4, 2, 3, 4],
    ]
    assert composed.positions[:, 8].tolist() == [5, 5, 5]
    assert composed.positions[:, -1].tolist() == [13, 13, 13]
    assert composed.position_delta == 14 - 21


def test_a_prompt_of_text_alone_is_composed() -> None:
    adapter = published_adapter()
    composed = FAMILY.compose(TokenizedPrompt((3, 1, 4)), [], {"image": adapter}, adapter.context)
    assert composed.token_ids == (3, 1, 4)
    assert composed.positions is not None
    assert composed.positions.tolist() == [[0, 1, 2]] * 3
    assert composed.position_delta == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (1, 10000), (10000, 1)])
def test_extreme_shapes_work_or_are_refused_with_the_rule(size: tuple[int, int]) -> None:
    adapter = published_adapter()
    options = adapter.options({})
    if max(size) > 200:
        with pytest.raises(MediaError, match="at most 200 times the shorter"):
            adapter.plan(MediaShape(size), options)
        return
    plan = adapter.plan(MediaShape(size), options)
    pixels = adapter.process(loaded(random_image(*size, seed=1)), plan, options)["tower"]["pixels"]
    assert pixels.shape[1] * pixels.shape[2] == 28 * 28 * plan.num_tokens


# --- options ----------------------------------------------------------------------------


def test_the_checkpoints_bounds_count_where_the_caller_gives_none() -> None:
    for processor, expected in (
        (changed(), (3136, 12845056)),
        ({}, (3136, 1003520)),
        ({"size": {"shortest_edge": 1000, "longest_edge": 2000}}, (1000, 2000)),
        ({"size": {"min_pixels": 1000, "max_pixels": 2000}}, (1000, 2000)),
        ({"size": {"shortest_edge": 1000, "longest_edge": 9000}, "max_pixels": 2000}, (1000, 2000)),
        ({"image_processor": {"min_pixels": 1000, "max_pixels": 2000}}, (1000, 2000)),
    ):
        options = published_adapter(processor=processor).options({})
        assert (options["min_pixels"], options["max_pixels"]) == expected


@pytest.mark.parametrize(
    "kwargs",
    [
        {"min_pixels": 50176, "max_pixels": 100352},
        {"size": {"shortest_edge": 50176, "longest_edge": 100352}},
        {"size": {"min_pixels": 50176, "max_pixels": 100352}},
        {"min_pixels": 50176, "size": {"longest_edge": 100352}},
        {"max_pixels": 100352, "size": {"shortest_edge": 50176, "longest_edge": 100352}},
    ],
)
def test_both_spellings_of_the_bounds_are_taken(kwargs: dict[str, Any]) -> None:
    adapter = published_adapter()
    options = adapter.options(kwargs)
    assert options == {"min_pixels": 50176, "max_pixels": 100352}
    assert adapter.plan(MediaShape((2000, 1000)), options).num_tokens <= 128
    assert adapter.plan(MediaShape((28, 28)), options).num_tokens >= 64


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"min_pixels": 0}, "min_pixels is 0; it must be an integer of at least 1"),
        ({"max_pixels": 1e6}, r"max_pixels is 1000000\.0"),
        ({"max_pixels": True}, "max_pixels is True"),
        ({"min_pixels": 10, "max_pixels": 9}, "min_pixels is 10 and max_pixels 9"),
        ({"max_pixels": 100}, "min_pixels is 3136 and max_pixels 100"),
        ({"min_pixels": 10**12, "max_pixels": 10**12}, "images are enlarged to 67108864 at most"),
        ({"size": {"shortest_edge": 2**26 + 1, "longest_edge": 2**27}}, "are enlarged to"),
        ({"size": 336}, "size is 336; it must be a mapping with shortest_edge"),
        ({"size": {"height": 5}}, "it must be a mapping with shortest_edge"),
        ({"size": {"longest_edge": "big"}}, "longest_edge is 'big'"),
        ({"max_pixels": 9999, "size": {"longest_edge": 8888}}, "give it once"),
    ],
)
def test_bad_options_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        published_adapter().options(kwargs)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (changed(do_resize=False), "do_resize is False; only True is built"),
        (changed(do_normalize=False), "do_normalize is False"),
        (changed(resample=2), "resample is 2; only 3 is built"),
        (changed(patch_size=16), "patch_size is 16; only 14 is built"),
        (changed(merge_size=1), "merge_size is 1; only 2 is built"),
        (changed(temporal_patch_size=1), "temporal_patch_size is 1; only 2 is built"),
        (changed(min_pixels="few"), "min_pixels is 'few'; it must be an integer"),
        (changed(min_pixels=10**9), "the first may not be above the second"),
        ({"size": 5}, "size is 5; it must be an object"),
    ],
)
def test_what_is_not_built_is_refused_by_name(processor: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        published_adapter(processor=processor)


# --- pixels -----------------------------------------------------------------------------

SIZES = [(480, 640), (336, 280), (30, 400), (1080, 1920), (10, 12)]


def own_patches(pixels: np.ndarray) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """What the tower makes of what ``process`` returns, not normalised."""
    adapter = published_adapter()
    options = adapter.options({})
    features = adapter.process(
        loaded(pixels), adapter.plan(MediaShape(pixels.shape[:2]), options), options
    )
    assert features["tower"]["pixels"].dtype == torch.uint8
    return raw_patches(features["tower"]["pixels"], read_tower_config(PUBLISHED.config, QWEN2_5_VL))


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers_pil_backend(size: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    processor = Qwen2VLImageProcessorPil(**changed(do_rescale=False, do_normalize=False))
    pixels = random_image(*size, seed=2)
    with one_axis_resizes():
        batch = processor(Image.fromarray(pixels), return_tensors="np")
    patches, grid = own_patches(pixels)
    assert list(grid) == batch["image_grid_thw"][0].tolist()
    difference = np.abs(patches.numpy().astype(int) - batch["pixel_values"])
    assert difference.max() <= 2
    assert np.mean(difference > 0) <= 0.01


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_transformers_torchvision_backend(size: tuple[int, int]) -> None:
    """Runs where torchvision is: the machine with the accelerator. Computes on the CPU."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(**changed(do_rescale=False, do_normalize=False))
    pixels = random_image(*size, seed=2)
    batch = processor(Image.fromarray(pixels), return_tensors="pt")
    patches, grid = own_patches(pixels)
    assert list(grid) == batch["image_grid_thw"][0].tolist()
    assert torch.equal(patches.float(), batch["pixel_values"].float())


def test_a_thousand_sizes_take_the_grids_of_transformers() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    processor = Qwen2VLImageProcessorPil(**PUBLISHED.preprocessor_config)
    adapter = published_adapter()
    rng = random.Random(11)
    bounds = [(3136, 12845056), (56 * 56, 1003520), (100, 784), (200704, 200704), (1, 10**9)]
    for _ in range(1000):
        height = round(2 ** rng.uniform(0, 13))
        width = min(round(height * 2 ** rng.uniform(-7.6, 7.6)) or 1, 10000)
        smallest, largest = rng.choice(bounds)
        bound = {"min_pixels": smallest, "max_pixels": largest}
        given = size_kwargs(rng, smallest, largest)
        if max(height, width) > 200 * min(height, width):
            continue
        plan = adapter.plan(MediaShape((height, width)), adapter.options(given))
        expected = processor.get_number_of_image_patches(height, width, bound)
        assert plan.num_tokens * 4 == expected, (height, width, given)
        assert plan.grid[0] * plan.grid[1] * plan.grid[2] == plan.num_tokens


def size_kwargs(rng: random.Random, smallest: int, largest: int) -> dict[str, Any]:
    """The bounds in one of the two spellings."""
    if rng.random() < 0.5:
        return {"min_pixels": smallest, "max_pixels": largest}
    return {"size": {"shortest_edge": smallest, "longest_edge": largest}}


@pytest.mark.parametrize("size", [(28, 280), (480, 640), (1080, 1920), (999, 35)])
def test_grids_are_those_that_transformers_makes(size: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    processor = Qwen2VLImageProcessorPil(**PUBLISHED.preprocessor_config)
    batch = processor(Image.fromarray(random_image(*size, seed=3)), return_tensors="np")
    adapter = published_adapter()
    time, rows, columns = adapter.plan(MediaShape(size), adapter.options({})).grid
    assert [time, 2 * rows, 2 * columns] == batch["image_grid_thw"][0].tolist()


# --- embeddings -------------------------------------------------------------------------


def test_embeddings_are_planned_as_the_image_of_their_grid() -> None:
    adapter = published_adapter()
    assert adapter.embeds_fields == ("image_grid_thw",)
    plan = adapter.plan(MediaShape((480, 640)), adapter.options({}))
    _, rows, columns = plan.grid
    grid = torch.tensor([1, 2 * rows, 2 * columns])
    assert adapter.plan_embeds(plan.num_tokens, {"image_grid_thw": grid}, {}) == plan


@pytest.mark.parametrize(
    ("grid", "num_rows", "message"),
    [
        ([1, 4, 6], 5, r"is \[1, 4, 6\], which takes 6 embedding rows; 5 were given"),
        ([1, 4, 6], 7, "takes 6 embedding rows; 7 were given"),
        ([2, 4, 6], 12, "must be \\[1, rows, columns\\]"),
        ([1, 3, 6], 4, "multiples of 2"),
        ([1, 0, 6], 0, "must be"),
        ([1, -2, -6], 3, "must be"),
        ([1, 4], 2, "must be"),
        ([[1, 4, 6]], 6, "must be"),
        (1, 1, "must be"),
        ([1, 2**40, 2**40], 6, "must be"),
    ],
)
def test_embeddings_that_fit_no_image(grid: Any, num_rows: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        published_adapter().plan_embeds(num_rows, {"image_grid_thw": torch.tensor(grid)}, {})
