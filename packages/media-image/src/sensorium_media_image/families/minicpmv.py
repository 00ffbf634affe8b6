"""MiniCPM-V-2.6 (Yao et al. 2024): SigLIP on a view and slices, a resampler, a Qwen2.

transformers has no class of it; the checkpoints bring code of their own, which is not run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.models.families import decoder_rules, read_decoder_config
from sensorium.plugins import (
    EncoderSpec,
    MediaAdapter,
    ModelContext,
    ModelFamily,
    Placeholder,
    Slot,
    TokenizedPrompt,
    WeightMap,
    walk_slots,
)
from sensorium.types import Composition, Features, Loaded, MediaPlan, MediaShape, PreparedItem
from sensorium_media_image.arrays import Uint8Array
from sensorium_media_image.fields import Section, image_processor
from sensorium_media_image.resize import resize
from sensorium_media_image.slicing import PATCH, Slicing, slice_image
from sensorium_media_image.smart_resize import check_aspect_ratio
from sensorium_media_image.towers.minicpmv import (
    build_minicpmv_tower,
    minicpmv_weights,
    read_minicpmv_config,
    read_siglip_normalisation,
)

ARCHITECTURE = "MiniCPMV"
TOWER = "tower"
PLACEHOLDER = "(<image>./</image>)"
MOST_SLICES = 64
#: Plans kept by an adapter.
CACHED_PLANS = 64
#: Pixels along a side at most, in a size that a caller gives beside embeddings.
MOST_PIXELS = 2**20

TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class MiniCPMVFamily(ModelFamily):
    """MiniCPM-V-2.6."""

    architectures = (ARCHITECTURE,)
    encoders = (EncoderSpec(TOWER, build_minicpmv_tower, minicpmv_weights),)
    chat_template = TEMPLATE

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """As ``ModelFamily.decoder_config``: Qwen2's entries, flat.

        Raises:
            ConfigError: also another version of the family, whose parts differ.
        """
        if str(config.get("version", "2.6")) != "2.6":
            raise ConfigError(f"config.json: version is {config['version']!r}; only 2.6 is built.")
        return read_decoder_config(config, "qwen2")

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """Qwen2's names behind ``llm.``."""
        return WeightMap(decoder_rules(bodies=("llm.model.",), heads=("llm.lm_head.",)))

    def compose(
        self,
        prompt: TokenizedPrompt,
        items: Sequence[PreparedItem],
        adapters: Mapping[str, MediaAdapter],
        context: ModelContext,
    ) -> Composition:
        """One span an item, and its number in the prompt in front of it where the model has one."""
        section = Section(image_processor(context.processor), "preprocessor_config.json")
        use_id = section.values.get("use_image_id", context.config.get("use_image_id", True))
        if use_id and prompt.slots:
            prompt = _numbered(prompt, context)
        return walk_slots(prompt, items, adapters)


def _numbered(prompt: TokenizedPrompt, context: ModelContext) -> TokenizedPrompt:
    """The prompt with ``<image_id>k</image_id>`` in front of its image number k, from 0."""
    start, end = (special_token(context, token) for token in ("<image_id>", "</image_id>"))
    token_ids: list[int] = []
    slots: list[Slot] = []
    copied = 0
    number = 0
    for slot in prompt.slots:
        token_ids += prompt.token_ids[copied : slot.offset]
        if slot.kind == MiniCPMVImages.kind:
            token_ids += [start, *context.tokenizer.encode(str(number)), end]
            number += 1
        slots.append(Slot(slot.kind, slot.index, len(token_ids), slot.length))
        copied = slot.offset
    token_ids += prompt.token_ids[copied:]
    return TokenizedPrompt(tuple(token_ids), tuple(slots))


def special_token(context: ModelContext, token: str) -> int:
    """The id of a token that the family writes.

    Raises:
        ConfigError: the tokenizer lacks it.
    """
    found = context.tokenizer.token_to_id(token)
    if found is None:
        raise ConfigError(f"tokenizer.json has no token {token}.")
    return found


class ViewLayout:
    """How a picture becomes views, and the tokens between which their rows stand."""

    def __init__(self, context: ModelContext) -> None:
        """Reads what the checkpoint says of its pixels.

        Raises:
            ConfigError: a value that isn't built, by name; a vocabulary without a token.
        """
        self.num_queries = read_minicpmv_config(context.config).num_queries
        section = Section(image_processor(context.processor), "preprocessor_config.json")
        read_siglip_normalisation(context.processor)
        section.require("patch_size", PATCH)
        section.require("slice_mode", True)
        section.require("image_feature_size", self.num_queries)
        self.scale = section.integer("scale_resolution", 448, at_least=PATCH)
        self.max_slices = section.integer("max_slice_nums", 9)
        names = ("<unk>", "<image>", "</image>", "<slice>", "</slice>")
        self.row, *self._marks = (special_token(context, name) for name in names)
        self.newline = tuple(context.tokenizer.encode("\n"))

    def slicing(self, height: int, width: int, max_slices: int) -> Slicing:
        """The views of a picture of this size.

        Raises:
            MediaError: one side is more than 200 times the other.
        """
        check_aspect_ratio(height, width)
        return slice_image(height, width, self.scale, max_slices)

    def token_ids(self, rows: int, columns: int) -> tuple[int, ...]:
        """A picture's tokens; ``row`` is where its embedding rows stand."""
        image, image_end, piece, piece_end = self._marks
        queries = (self.row,) * self.num_queries
        token_ids = [image, *queries, image_end]
        for row in range(rows):
            token_ids += self.newline if row else ()
            token_ids += (piece, *queries, piece_end) * columns
        return tuple(token_ids)

    def plan(self, token_ids: tuple[int, ...], *, num_pieces: int = 1) -> MediaPlan:
        """The plan of an item with these tokens."""
        is_embed = bytes(token == self.row for token in token_ids)
        return MediaPlan(
            num_tokens=is_embed.count(1),
            token_ids=token_ids,
            is_embed=is_embed,
            num_pieces=num_pieces,
        )

    def views(self, pixels: Uint8Array, slicing: Slicing) -> dict[str, Tensor]:
        """ "view": (1, h, w, 3) and, if it is sliced, "slices": (n, h, w, 3), uint8."""
        views = {"view": resize(pixels, *slicing.view)[None]}
        if slicing.rows:
            height, width = slicing.slice_size
            rows, columns = slicing.rows, slicing.columns
            whole = pixels
            if whole.shape[:2] != (rows * height, columns * width):
                whole = resize(whole, rows * height, columns * width).numpy()
            split = whole.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
            pieces = split.copy().reshape(rows * columns, height, width, 3)
            views["slices"] = torch.from_numpy(pieces)
        return views


def slice_count(kwargs: Mapping[str, Any], name: str, default: int) -> int:
    """The most slices of a picture in ``mm_processor_kwargs``.

    Raises:
        RequestError: no number from 1 to ``MOST_SLICES``.
    """
    given = kwargs.get(name)
    if given is None:
        return default
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MOST_SLICES:
        raise RequestError(f"{name} is {given!r}; it must be an integer from 1 to {MOST_SLICES}.")
    return given


def given_size(fields: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """(height, width) out of a field (2,) beside embeddings: (width, height) in pixels.

    Raises:
        RequestError: it is no size.
    """
    given = fields[name].tolist()
    if not (
        isinstance(given, list)
        and len(given) == 2
        and all(0 < side <= MOST_PIXELS for side in given)
    ):
        raise RequestError(f"{name} is {given}; it must be [width, height] in pixels.")
    return given[1], given[0]


class MiniCPMVImages(MediaAdapter):
    """Images as a view of the whole and, if they are large, slices by rows.

    Options: ``max_slice_nums``, the most slices that an image is cut into.
    """

    kind = "image"
    architectures = (ARCHITECTURE,)
    encoders = (TOWER,)
    option_names = frozenset({"max_slice_nums"})
    embeds_fields = ("image_sizes",)

    def __init__(self, context: ModelContext) -> None:
        """As ``ViewLayout``."""
        super().__init__(context)
        self._layout = ViewLayout(context)
        self._cached_plan = lru_cache(maxsize=CACHED_PLANS)(self._make_plan)

    def placeholder(self, index: int) -> Placeholder:
        """``(<image>./</image>)``, whatever the index."""
        return Placeholder(PLACEHOLDER, (), PLACEHOLDER)

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """``max_slice_nums``, from the caller or else from the checkpoint."""
        return {"max_slice_nums": slice_count(kwargs, "max_slice_nums", self._layout.max_slices)}

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """The rows of the view and of each slice, between the tokens that mark them.

        Raises:
            MediaError: one side is more than 200 times the other.
        """
        slicing = self._slicing(shape, options)
        return self._cached_plan(slicing.rows, slicing.columns)

    def _slicing(self, shape: MediaShape, options: Mapping[str, Any]) -> Slicing:
        height, width = shape.size
        return self._layout.slicing(height, width, options["max_slice_nums"])

    def _make_plan(self, rows: int, columns: int) -> MediaPlan:
        return self._layout.plan(self._layout.token_ids(rows, columns))

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """As for an image of ``image_sizes`` (2,): (width, height) in pixels before slicing.

        Raises:
            RequestError: a size that is none, or that has another number of rows.
        """
        height, width = given_size(fields, "image_sizes")
        try:
            plan = self.plan(MediaShape((height, width)), options)
        except MediaError as error:
            raise RequestError(f"image_sizes is {[width, height]}: {error}") from error
        if plan.num_tokens != num_rows:
            raise RequestError(
                f"image_sizes is {[width, height]}, which takes {plan.num_tokens} embedding rows; "
                f"{num_rows} were given."
            )
        return plan

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "view": (1, h, w, 3) and, if it is sliced, "slices": (n, h, w, 3), uint8."""
        return {TOWER: self._layout.views(loaded.value, self._slicing(loaded.shape, options))}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """A strip of as many squares as there may be slices."""
        scale = self._layout.scale
        return MediaShape((scale, scale * options["max_slice_nums"]))
