"""LLaVA-OneVision (Li et al. 2024): a SigLIP tower on an image and its tiles, a Qwen2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.models.families import decoder_rules
from sensorium.plugins import (
    EncoderSpec,
    MediaAdapter,
    ModelContext,
    ModelFamily,
    Placeholder,
    WeightMap,
)
from sensorium.types import Features, Loaded, MediaPlan, MediaShape
from sensorium_media_image.anyres import Anyres, Fit
from sensorium_media_image.families.decoders import nested_decoder, text_section
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.resize import resize
from sensorium_media_image.towers.onevision import (
    OneVisionConfig,
    build_onevision_tower,
    onevision_weights,
    read_onevision_config,
    read_onevision_normalisation,
    read_sizes,
)

ARCHITECTURE = "LlavaOnevisionForConditionalGeneration"
TOWER = "tower"
PLACEHOLDER = "<image>"
DEFAULT_IMAGE_TOKEN_ID = 151646
#: Plans kept by an adapter; the token ids of a large image take about 60 kB.
CACHED_PLANS = 64
#: Images so much larger than an allowed size take the one in which most of them is left.
ENLARGED = 16

#: What Qwen2's published class fills in where ``text_config`` is silent.
DECODER_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ '\n' + message['content'] }}{% else %}"
    "{% for kind in ('image', 'video') %}"
    "{% for part in message['content'] if part['type'] == kind %}<{{ kind }}>{% endfor %}"
    "{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}"
    "{% endfor %}{% endif %}<|im_end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class OneVisionFamily(ModelFamily):
    """LLaVA-OneVision of any size."""

    architectures = (ARCHITECTURE,)
    encoders = (EncoderSpec(TOWER, build_onevision_tower, onevision_weights),)
    chat_template = TEMPLATE

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """As ``ModelFamily.decoder_config``; what ``text_config`` omits is Qwen2's default."""
        given = {k: v for k, v in (text_section(config) or {}).items() if v is not None}
        if given.get("model_type", "qwen2") != "qwen2":
            return nested_decoder(config, given)
        return nested_decoder(config, {**DECODER_DEFAULTS, **given}, style="qwen2")

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """The published spelling, transformers 5's in memory, and that of its bare model."""
        return WeightMap(
            decoder_rules(
                bodies=("language_model.model.", "model.language_model.", "language_model."),
                heads=("language_model.lm_head.", "lm_head."),
            )
        )


def check_pixels(processor: Mapping[str, Any], config: OneVisionConfig) -> None:
    """Holds the steps in ``preprocessor_config.json`` against what is built.

    Raises:
        ConfigError: another step or size, by name.
    """
    tile, patches = config.anyres.tile, config.anyres.patches
    section = Section(image_processor(processor), "preprocessor_config.json")
    for key, allowed in _BUILT_STEPS.items():
        section.require(key, *allowed)
    sides = {"height": tile, "width": tile}
    section.require("size", sides, {"shortest_edge": tile}, tile)
    section.require("crop_size", sides, tile)
    section.require("num_image_tokens", patches**2)
    section.require("vision_feature_select_strategy", "full")
    if "image_grid_pinpoints" in section.values:
        sizes = read_sizes(section, tile)
        if sizes != config.anyres.sizes:
            raise ConfigError(
                f"{section.name}: image_grid_pinpoints has {len(sizes)} sizes that aren't those "
                f"of config.json, which has {len(config.anyres.sizes)}; the two must be the same."
            )
    read_onevision_normalisation(processor)


#: Steps of the published processor, and the values for which they are built. ``do_pad`` fills up
#: batches there.
_BUILT_STEPS: Mapping[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_convert_rgb": (True,),
    "do_center_crop": (False,),
    "resample": (3,),
}


class OneVisionImages(MediaAdapter):
    """Images as a view of the whole and tiles, each of several as if it were alone."""

    kind = "image"
    architectures = (ARCHITECTURE,)
    encoders = (TOWER,)

    def __init__(self, context: ModelContext) -> None:
        """Reads what the checkpoint says of its pixels.

        Raises:
            ConfigError: a step or a size that isn't built, by name.
        """
        super().__init__(context)
        tower = read_onevision_config(context.config)
        check_pixels(context.processor, tower)
        self._anyres = tower.anyres
        config = Section(context.config, "config.json")
        key = "image_token_id" if "image_token_id" in config.values else "image_token_index"
        self._image_id = config.integer(key, DEFAULT_IMAGE_TOKEN_ID, at_least=0)
        self._cached_plan = lru_cache(maxsize=CACHED_PLANS)(self._make_plan)

    def placeholder(self, index: int) -> Placeholder:
        """``<image>``, whatever the index."""
        return Placeholder(PLACEHOLDER, (self._image_id,), PLACEHOLDER)

    def template_part(self) -> Mapping[str, Any]:
        """The part for which the published template writes the placeholder."""
        return {"type": "image"}

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """The rows of the whole, of the tiles' patches that show it, and an end for each line.

        Raises:
            MediaError: there is no pixel at all.
        """
        return self._cached_plan(self._anyres.num_rows(*self._fit(shape).kept))

    def _fit(self, shape: MediaShape) -> Fit:
        height, width = shape.size
        if min(height, width) < 1:
            raise MediaError(f"it has {height}×{width} pixels; each side needs at least one.")
        return self._anyres.fit(height, width)

    def _make_plan(self, num_tokens: int) -> MediaPlan:
        return MediaPlan(num_tokens=num_tokens, token_ids=(self._image_id,) * num_tokens)

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """As for an image with as many rows.

        Raises:
            RequestError: a number of rows that no image has.
        """
        counts = row_counts(self._anyres)
        if num_rows not in counts:
            raise RequestError(
                f"its embeddings have {num_rows} rows; no image of this model has so many. The "
                f"smallest has {min(counts)}, the largest {max(counts)}."
            )
        return self._cached_plan(num_rows)

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "views": (1 + tiles, S, S, 3) uint8; "places": (rows, columns) int32, see the tower."""
        fit, tile = self._fit(loaded.shape), self._anyres.tile
        rows, columns = fit.target[0] // tile, fit.target[1] // tile
        views = np.zeros((1 + rows * columns, tile, tile, 3), dtype=np.uint8)
        views[0] = resize(loaded.value, tile, tile).numpy()
        framed = np.zeros((*fit.target, 3), dtype=np.uint8)
        top, left = ((fit.target[i] - fit.size[i]) // 2 for i in range(2))
        inside = framed[top : top + fit.size[0], left : left + fit.size[1]]
        inside[:] = resize(loaded.value, *fit.size).numpy()
        split = framed.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
        views[1:] = split.reshape(-1, tile, tile, 3)
        places = torch.from_numpy(patch_places(fit, self._anyres.patches))
        return {TOWER: {"views": torch.from_numpy(views), "places": places}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """The (height, width) that takes the most tokens."""
        return MediaShape(largest_image(self._anyres))


def patch_places(fit: Fit, patches: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """(rows, columns): each patch that shows the image, as its number among those of all tiles."""
    (rows, columns), (top, left) = fit.grid, fit.margins
    down = np.arange(top, rows - top, dtype=np.int32)[:, None]
    across = np.arange(left, columns - left, dtype=np.int32)[None]
    tiles = down // patches * (columns // patches) + across // patches
    return (tiles * patches + down % patches) * patches + across % patches


@lru_cache(maxsize=8)
def row_counts(anyres: Anyres) -> frozenset[int]:
    """Numbers of rows that images may have: of every allowed size with margins on two sides."""
    return frozenset(anyres.num_rows(*kept) for _, kept in _layouts(anyres))


@lru_cache(maxsize=8)
def largest_image(anyres: Anyres) -> tuple[int, int]:
    """A (height, width) that takes as many rows as any."""
    layouts = sorted(_layouts(anyres), key=lambda layout: anyres.num_rows(*layout[1]), reverse=True)
    for size, kept in layouts:
        for times in (1, ENLARGED):
            height, width = (times * side for side in size)
            if anyres.fit(height, width).kept == kept:
                return height, width
    return anyres.sizes[0]


def _layouts(anyres: Anyres) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Every allowed size with any margins: an image that would leave them, and the kept patches.

    Such an image may fit better into another size.
    """
    tile, patches = anyres.tile, anyres.patches
    for height, width in anyres.sizes:
        rows, columns = (side // tile * patches for side in (height, width))
        for kept in range(rows % 2, rows + 1, 2):
            yield (max(1, -(-kept * tile // patches)), width), (kept, columns)
        for kept in range(columns % 2, columns + 1, 2):
            yield (height, max(1, -(-kept * tile // patches))), (rows, kept)
