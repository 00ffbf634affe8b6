"""Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025).

Images at their own resolution, positions on three axes. The two differ in their towers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError, RequestError
from sensorium.models.families import decoder_rules
from sensorium.plugins import (
    EncoderSpec,
    MediaAdapter,
    ModelContext,
    ModelFamily,
    Placeholder,
    TokenizedPrompt,
    WeightMap,
    walk_slots,
)
from sensorium.types import Composition, Features, Loaded, MediaPlan, MediaShape, PreparedItem
from sensorium_media_image.families.decoders import nested_decoder, text_section
from sensorium_media_image.families.mrope import AXES, mrope_positions
from sensorium_media_image.families.pixel_bounds import (
    BOUND_NAMES,
    checkpoint_bounds,
    resolved_bounds,
)
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.resize import resize
from sensorium_media_image.smart_resize import largest_size, smart_resize
from sensorium_media_image.towers.qwen import QWEN_TOWER_WEIGHTS, build_qwen_tower
from sensorium_media_image.towers.qwen_config import (
    QWEN2_5_VL,
    QWEN2_VL,
    read_tower_config,
)

ARCHITECTURES = (QWEN2_VL, QWEN2_5_VL)
TOWER = "tower"
PLACEHOLDER = "<|image_pad|>"
IN_CONTEXT = "<|vision_start|><|image_pad|><|vision_end|>"
DEFAULT_IMAGE_TOKEN_ID = 151655
#: Patches along one side of an image at most, in a grid that a caller gives.
MOST_PATCHES = 2**20
#: Plans kept by an adapter; the token ids of a large image take about 100 kB.
CACHED_PLANS = 64

#: What both published classes fill in where ``config.json`` is silent.
DECODER_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "max_window_layers": 80,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
}
DEFAULT_SECTIONS = (16, 24, 24)
#: The published class's least and most pixels, where the checkpoint has none of its own.
DEFAULT_BOUNDS = (56 * 56, 1280 * 28 * 28)

TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class QwenVLFamily(ModelFamily):
    """Qwen2-VL and Qwen2.5-VL of any size."""

    architectures = ARCHITECTURES
    position_axes = AXES
    encoders = (EncoderSpec(TOWER, build_qwen_tower, QWEN_TOWER_WEIGHTS),)
    chat_template = TEMPLATE

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """As ``ModelFamily.decoder_config``, flat or with a ``text_config``."""
        given = text_section(config) or config
        text = {**DECODER_DEFAULTS, **{k: v for k, v in given.items() if v is not None}}
        key = "rope_parameters" if text.get("rope_parameters") else "rope_scaling"
        text[key] = {"mrope_section": list(DEFAULT_SECTIONS), **(text.get(key) or {})}
        decoder = nested_decoder(config, text, style="qwen2")
        if len(decoder.rope.sections) != AXES:
            raise ConfigError(
                f"config.json: mrope_section is {list(decoder.rope.sections)}; it must have "
                "three entries: for time, rows and columns."
            )
        return decoder

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """The published spelling, transformers 5's in memory, and that of its bare model."""
        return WeightMap(
            decoder_rules(bodies=("model.", "model.language_model.", "language_model."))
        )

    def compose(
        self,
        prompt: TokenizedPrompt,
        items: Sequence[PreparedItem],
        adapters: Mapping[str, MediaAdapter],
        context: ModelContext,
    ) -> Composition:
        """One span an item, where its placeholder was, and positions on three axes."""
        walked = walk_slots(prompt, items, adapters)
        positions, delta = mrope_positions(len(walked.token_ids), walked.spans, items)
        return Composition(walked.token_ids, walked.spans, positions, delta)


class QwenImages(MediaAdapter):
    """Images for both: resized to whole blocks of patches, a token a block.

    Options: ``min_pixels`` and ``max_pixels``, the area of the resized image; or both as
    ``size`` {"shortest_edge", "longest_edge"}, which name the same two areas.
    """

    kind = "image"
    architectures = ARCHITECTURES
    encoders = (TOWER,)
    option_names = BOUND_NAMES
    embeds_fields = ("image_grid_thw",)

    def __init__(self, context: ModelContext) -> None:
        """Reads what the checkpoint says of its pixels.

        Raises:
            ConfigError: a step or a size that isn't built, by name.
        """
        super().__init__(context)
        self._tower = read_tower_config(context.config, context.architecture)
        self._factor = self._tower.patch_size * self._tower.merge_size
        section = Section(image_processor(context.processor), "preprocessor_config.json")
        self._bounds = checkpoint_bounds(section, self._tower, DEFAULT_BOUNDS)
        config = Section(context.config, "config.json")
        self._image_id = config.integer("image_token_id", DEFAULT_IMAGE_TOKEN_ID, at_least=0)
        self._cached_plan = lru_cache(maxsize=CACHED_PLANS)(self._make_plan)

    def placeholder(self, index: int) -> Placeholder:
        """``<|image_pad|>``, whatever the index; a start and an end belong around it."""
        return Placeholder(PLACEHOLDER, (self._image_id,), IN_CONTEXT)

    def template_part(self) -> Mapping[str, Any]:
        """The part for which the published template writes the placeholder."""
        return {"type": "image"}

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The two bounds in pixels, from the caller or else from the checkpoint.

        Raises:
            RequestError: a bound of the wrong type, given twice, or out of order.
        """
        return resolved_bounds(kwargs, self._bounds)

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """A token a block; the grid is (1, rows, columns) of blocks.

        Raises:
            MediaError: one side is more than 200 times the other.
        """
        height, width = shape.size
        return self._cached_plan(height, width, options["min_pixels"], options["max_pixels"])

    def _make_plan(self, height: int, width: int, min_pixels: int, max_pixels: int) -> MediaPlan:
        resized = smart_resize(height, width, self._factor, min_pixels, max_pixels)
        return self._grid_plan(resized[0] // self._factor, resized[1] // self._factor)

    def _grid_plan(self, rows: int, columns: int) -> MediaPlan:
        num_tokens = rows * columns
        return MediaPlan(
            num_tokens=num_tokens,
            token_ids=(self._image_id,) * num_tokens,
            grid=(1, rows, columns),
        )

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """A token a row; ``image_grid_thw`` (3,) says how they lie, in patches before merging.

        Raises:
            RequestError: a grid that is none of an image, or that has another number of rows.
        """
        given = fields["image_grid_thw"].tolist()
        merge = self._tower.merge_size
        if (
            not (isinstance(given, list) and len(given) == 3 and given[0] == 1)
            or not all(0 < side <= MOST_PATCHES for side in given[1:])
            or any(side % merge for side in given[1:])
        ):
            raise RequestError(
                f"image_grid_thw is {given}; it must be [1, rows, columns] with rows and columns "
                f"of patches that are multiples of {merge}."
            )
        _, rows, columns = (side // merge for side in given)
        if rows * columns != num_rows:
            raise RequestError(
                f"image_grid_thw is {given}, which takes {rows * columns} embedding rows; "
                f"{num_rows} were given."
            )
        return self._grid_plan(rows, columns)

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "pixels": (1, height, width, 3) uint8, whole blocks of patches."""
        _, rows, columns = plan.grid
        pixels = resize(loaded.value, rows * self._factor, columns * self._factor)
        return {TOWER: {"pixels": pixels[None]}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """The (height, width) that takes the most tokens."""
        return MediaShape(largest_size(self._factor, options["min_pixels"], options["max_pixels"]))
