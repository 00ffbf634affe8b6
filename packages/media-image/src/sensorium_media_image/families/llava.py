"""LLaVA-1.5 (Liu et al. 2023): a CLIP tower, two linear layers, a Llama.

Every image is resized to the tower's size and cropped to its middle square, so each takes the
same number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
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
from sensorium_media_image.arrays import Uint8Array
from sensorium_media_image.families.decoders import nested_decoder, text_section
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.options import DEFAULT_MAX_IMAGE_PIXELS
from sensorium_media_image.resize import centre_crop, resize
from sensorium_media_image.smart_resize import check_aspect_ratio
from sensorium_media_image.towers.clip import (
    ClipConfig,
    build_clip_tower,
    clip_weights,
    read_clip_config,
)
from sensorium_media_image.towers.normalise import read_normalisation

ARCHITECTURE = "LlavaForConditionalGeneration"
TOWER = "tower"
PLACEHOLDER = "<image>"
DEFAULT_IMAGE_TOKEN_ID = 32000

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }} "
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} "
    "{% endfor %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class LlavaFamily(ModelFamily):
    """LLaVA-1.5 with a decoder of Llama's or Qwen2's style."""

    architectures = (ARCHITECTURE,)
    encoders = (EncoderSpec(TOWER, build_clip_tower, clip_weights),)
    chat_template = TEMPLATE

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """As ``ModelFamily.decoder_config``; what ``text_config`` omits is Llama's default."""
        return nested_decoder(config, text_section(config) or {})

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """The published spelling, transformers 5's in memory, and that of its bare model."""
        return WeightMap(
            decoder_rules(
                bodies=("language_model.model.", "model.language_model.", "language_model."),
                heads=("language_model.lm_head.", "lm_head."),
            )
        )


class LlavaImages(MediaAdapter):
    """Images for LLaVA-1.5: shorter side to the tower's size, then the middle square.

    With ``do_pad`` in the checkpoint's processor, padded to a square before.
    """

    kind = "image"
    architectures = (ARCHITECTURE,)
    encoders = (TOWER,)

    def __init__(self, context: ModelContext) -> None:
        """Reads what the checkpoint says of its pixels.

        Raises:
            ConfigError: a step or a size that isn't built, by name.
        """
        super().__init__(context)
        self._tower = read_clip_config(context.config)
        self._keeps_ratio = _keeps_ratio(context.processor, self._tower)
        self._padding = _padding(context.processor)
        config = Section(context.config, "config.json")
        key = "image_token_id" if "image_token_id" in config.values else "image_token_index"
        image_id = config.integer(key, DEFAULT_IMAGE_TOKEN_ID, at_least=0)
        self._placeholder = Placeholder(PLACEHOLDER, (image_id,), PLACEHOLDER)
        num_tokens = self._tower.num_tokens
        self._plan = MediaPlan(num_tokens=num_tokens, token_ids=(image_id,) * num_tokens)

    def placeholder(self, index: int) -> Placeholder:
        """``<image>``, whatever the index."""
        return self._placeholder

    def template_part(self) -> Mapping[str, Any]:
        """The part for which the published template writes the placeholder."""
        return {"type": "image"}

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """The same for every (height, width).

        Raises:
            MediaError: one side is more than 200 times the other: of such a strip the crop
                would keep next to nothing. Or, where images are padded, the square is too large.
        """
        height, width = shape.size
        check_aspect_ratio(height, width)
        side = max(height, width)
        if self._padding is not None and side * side > DEFAULT_MAX_IMAGE_PIXELS:
            raise MediaError(
                f"it is {width}×{height}, {side * side} pixels once padded to a square; this model "
                f"takes {DEFAULT_MAX_IMAGE_PIXELS}."
            )
        return self._plan

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """The same as for every image.

        Raises:
            RequestError: another number of rows than an image has.
        """
        if num_rows != self._plan.num_tokens:
            raise RequestError(
                f"its embeddings have {num_rows} rows; an image of this model has "
                f"{self._plan.num_tokens}."
            )
        return self._plan

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "pixels": (size, size, 3) uint8."""
        side = self._tower.image_size
        pixels = loaded.value if self._padding is None else pad_square(loaded.value, self._padding)
        if not self._keeps_ratio:
            return {TOWER: {"pixels": resize(pixels, side, side)}}
        height, width = pixels.shape[:2]
        resized = resize(pixels, *shortest_edge_size(height, width, side))
        return {TOWER: {"pixels": centre_crop(resized, side, side)}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """The tower's own size; all are alike."""
        return MediaShape((self._tower.image_size, self._tower.image_size))


def shortest_edge_size(height: int, width: int, edge: int) -> tuple[int, int]:
    """(height, width) with the shorter side ``edge`` and the longer one rounded down."""
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def pad_square(pixels: Uint8Array, color: tuple[int, int, int]) -> Uint8Array:
    """(H, W, 3) in the middle of a square of the longer side; half a pixel goes to the far side."""
    height, width = pixels.shape[:2]
    if height == width:
        return pixels
    side = max(height, width)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = color
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _padding(processor: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """The colour that fills up squares: the mean, cut to whole levels. None: no padding."""
    section = image_processor(processor)
    if not section.get("do_pad"):
        return None
    red, green, blue = (int(255 * mean) for mean in read_normalisation(section).mean)
    return red, green, blue


#: Steps of the published processor, and the values for which they are built.
_BUILT_STEPS: Mapping[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_convert_rgb": (True,),
    "do_pad": (False, True),
    "pad_size": (None,),
    "resample": (3,),
}


def _keeps_ratio(processor: Mapping[str, Any], tower: ClipConfig) -> bool:
    """Whether images are cropped (True) or squeezed into the square; checks everything else.

    Raises:
        ConfigError: a step or a size that isn't built, by name.
    """
    section = Section(image_processor(processor), "preprocessor_config.json")
    for key, allowed in _BUILT_STEPS.items():
        section.require(key, *allowed)
    section.require("patch_size", tower.patch_size)
    strategy = "full" if tower.keep_class else "default"
    section.require("vision_feature_select_strategy", strategy)
    side = tower.image_size
    squeezed = {"height": side, "width": side}
    crops = section.values.get("do_center_crop") is not False
    size = section.values.get("size")
    if crops and section.values.get("crop_size") is not None:
        _check_size(section, "crop_size", squeezed, (side,))
    if size is None and crops:
        return True
    if size == squeezed:
        return False
    if crops:
        _check_size(section, "size", {"shortest_edge": side}, (side, squeezed))
        return True
    raise ConfigError(
        f"preprocessor_config.json: do_center_crop is False and size is {size!r}; without the "
        f"crop only {squeezed!r} is built, the tower's own size."
    )


def _check_size(
    section: Section, key: str, built: Mapping[str, int], also: tuple[object, ...]
) -> None:
    """A size must be the tower's: its position embeddings know no other."""
    value = section.values[key]
    if value != built and value not in also:
        raise ConfigError(
            f"{section.name}: {key} is {value!r}; the tower takes {dict(built)!r} only."
        )
