"""Phi-3.5-vision (Abdin et al. 2024) and its relatives, such as VLM2Vec (Jiang et al. 2024).

A CLIP tower on tiles and on the whole image, two linear layers, a Phi-3. transformers has no class
of it; the checkpoints bring code of their own, which is not run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError, RequestError
from sensorium.models.families import decoder_rules, read_decoder_config
from sensorium.plugins import (
    EncoderSpec,
    MediaAdapter,
    ModelContext,
    ModelFamily,
    Placeholder,
    WeightMap,
    WeightRule,
)
from sensorium.types import Features, Loaded, MediaPlan, MediaShape
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.resize import resize
from sensorium_media_image.tiling import Tiling, tile
from sensorium_media_image.towers.normalise import read_normalisation
from sensorium_media_image.towers.phi3v import (
    PREFIX,
    build_phi3v_tower,
    phi3v_weights,
    read_phi3v_config,
)

ARCHITECTURE = "Phi3VForCausalLM"
TOWER = "tower"
#: The published vocabulary's token for images, which stands wherever an item's rows go. The
#: published processor writes -1, -2 … there, which are ids of nothing.
IMAGE_TOKEN = "<|image|>"
DEFAULT_IMAGE_TOKEN_ID = 32044
#: The published class's, where the checkpoint's file has none.
DEFAULT_NUM_CROPS = 1
MOST_CROPS = 64
PADDING = 255
#: Plans kept by an adapter.
CACHED_PLANS = 64

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
#: What VLM2Vec was trained on: texts and placeholders in their order, and nothing around them.
VLM2VEC_TEMPLATE = (
    "{% if messages | length > 1 %}"
    "{{ raise_exception('An embedding is made of one message.') }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{{ part['text'] }}{% if not loop.last %} {% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


class Phi3VFamily(ModelFamily):
    """Phi-3-vision, Phi-3.5-vision, and embedding models made of them."""

    architectures = (ARCHITECTURE,)
    encoders = (EncoderSpec(TOWER, build_phi3v_tower, phi3v_weights),)
    chat_template = TEMPLATE
    chat_templates: ClassVar[Mapping[str, str]] = {"template_vlm2vec_phi3v": VLM2VEC_TEMPLATE}

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """As ``ModelFamily.decoder_config``: Phi-3's entries, flat."""
        return read_decoder_config(config, "phi3")

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """Phi-3's names; the tower's copy of the embedding is the same matrix once more."""
        alias = WeightRule(rf"{PREFIX}wte\.weight", None)
        return WeightMap((*decoder_rules(style="phi3"), alias))


class Phi3VImages(MediaAdapter):
    """Images in tiles of the tower's size, filled up with white.

    Placeholders are numbered, and an item's rows stand where its number is, whatever the order.

    Options: ``num_crops``, the most tiles that an image is cut into.
    """

    kind = "image"
    architectures = (ARCHITECTURE,)
    encoders = (TOWER,)
    option_names = frozenset({"num_crops"})

    def __init__(self, context: ModelContext) -> None:
        """Reads what the checkpoint says of its pixels.

        Raises:
            ConfigError: a value that isn't built, by name; a vocabulary without the token.
        """
        super().__init__(context)
        self._tower = read_phi3v_config(context.config)
        section = Section(image_processor(context.processor), "preprocessor_config.json")
        section.require("num_img_tokens", self._tower.merged**2)
        read_normalisation(section.values)
        self._num_crops = section.integer("num_crops", DEFAULT_NUM_CROPS)
        if self._num_crops > MOST_CROPS:
            raise ConfigError(
                f"{section.name}: num_crops is {self._num_crops}; at most {MOST_CROPS} are built."
            )
        self._image_id = _image_token_id(context)
        self._plan_tiles = lru_cache(maxsize=CACHED_PLANS)(self._make_plan)

    def placeholder(self, index: int) -> Placeholder:
        """``<|image_1|>`` for the first; among ids, the one token for all."""
        text = f"<|image_{index + 1}|>"
        return Placeholder(text, (self._image_id,), text, parts_text=True)

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """``num_crops``, from the caller or else from the checkpoint.

        Raises:
            RequestError: no number from 1 to ``MOST_CROPS``.
        """
        given = kwargs.get("num_crops")
        if given is None:
            return {"num_crops": self._num_crops}
        if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MOST_CROPS:
            raise RequestError(
                f"num_crops is {given!r}; it must be an integer from 1 to {MOST_CROPS}."
            )
        return {"num_crops": given}

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """The rows of all tiles and of the global view, with their separators.

        Raises:
            MediaError: so long an image that its shorter side would vanish.
        """
        tiling = self._tiling(shape, options)
        return self._plan_tiles(tiling.rows, tiling.columns)

    def _tiling(self, shape: MediaShape, options: Mapping[str, Any]) -> Tiling:
        height, width = shape.size
        return tile(height, width, self._tower.side, options["num_crops"])

    def _make_plan(self, rows: int, columns: int) -> MediaPlan:
        num_tokens = self._tower.num_tokens(rows, columns)
        return MediaPlan(num_tokens=num_tokens, token_ids=(self._image_id,) * num_tokens)

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """As many tokens as rows, where some number of tiles has as many.

        Raises:
            RequestError: no number of tiles up to ``num_crops`` has.
        """
        most = options["num_crops"]
        for rows in range(1, most + 1):
            for columns in range(1, most // rows + 1):
                if self._tower.num_tokens(rows, columns) == num_rows:
                    return self._plan_tiles(rows, columns)
        raise RequestError(
            f"its embeddings have {num_rows} rows; an image of this model in h×w tiles has "
            f"{self._tower.merged**2}·(h·w + 1) + 1 + {self._tower.merged}·(h + 1), with h·w up to "
            f"num_crops, which is {most}."
        )

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "pixels": (rows · side, columns · side, 3) uint8, whole tiles."""
        tiling, side = self._tiling(loaded.shape, options), self._tower.side
        resized = resize(
            loaded.value,
            tiling.height,
            tiling.width,
            "bilinear",
            columns_first=tiling.is_portrait,
        ).numpy()
        height, width = tiling.rows * side, tiling.columns * side
        if resized.shape[:2] != (height, width):
            top, left = (height - tiling.height) // 2, (width - tiling.width) // 2
            padded = np.full((height, width, 3), PADDING, dtype=np.uint8)
            padded[top : top + tiling.height, left : left + tiling.width] = resized
            resized = padded
        return {TOWER: {"pixels": torch.from_numpy(resized)}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """A column of tiles: as many as any image has, and the most lines."""
        return MediaShape((self._tower.side * options["num_crops"], self._tower.side))


def _image_token_id(context: ModelContext) -> int:
    """The id of ``IMAGE_TOKEN``, whose embedding is never looked at.

    Raises:
        ConfigError: the tokenizer lacks it, and the vocabulary ends before the published id.
    """
    found = context.tokenizer.token_to_id(IMAGE_TOKEN)
    if found is None and context.decoder.vocab_size <= DEFAULT_IMAGE_TOKEN_ID:
        raise ConfigError(
            f"tokenizer.json has no token {IMAGE_TOKEN}, and the model's "
            f"{context.decoder.vocab_size} ids end before {DEFAULT_IMAGE_TOKEN_ID}, which it has "
            "in the published vocabulary."
        )
    return DEFAULT_IMAGE_TOKEN_ID if found is None else found
