"""Clips for Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025).

Frames go through the tower in pairs, a pair being a time; times have positions of their own, which
are seconds in Qwen2.5-VL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.errors import MediaError, RequestError
from sensorium.plugins import MediaAdapter, ModelContext, Placeholder
from sensorium.types import Features, Loaded, MediaPlan, MediaShape
from sensorium_media_image.families.mrope import SECONDS_PER_GRID, TOKENS_PER_SECOND
from sensorium_media_image.families.pixel_bounds import (
    BOUND_NAMES,
    checkpoint_bounds,
    resolved_bounds,
)
from sensorium_media_image.families.qwen_vl import ARCHITECTURES, MOST_PATCHES, TOWER
from sensorium_media_image.fields import Section
from sensorium_media_image.pieces import num_pieces
from sensorium_media_image.resize import resize
from sensorium_media_image.smart_resize import (
    MAX_ASPECT_RATIO,
    check_aspect_ratio,
    largest_size,
    smart_resize,
)
from sensorium_media_image.towers.qwen_config import QWEN2_5_VL, read_tower_config
from sensorium_media_video import sampling
from sensorium_media_video.clip import Clip
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.families.choices import count, numbers, refuse_sampling
from sensorium_media_video.families.length import check_length

PLACEHOLDER = "<|video_pad|>"
IN_CONTEXT = "<|vision_start|><|video_pad|><|vision_end|>"
DEFAULT_VIDEO_TOKEN_ID = 151656
#: The published class's least and most pixels of a frame, where the checkpoint has none.
DEFAULT_BOUNDS = (128 * 28 * 28, 768 * 28 * 28)
#: Positions of a second where ``config.json`` is silent; the published files say 2.
DEFAULT_TOKENS_PER_SECOND = 4
#: Frames a second that are chosen, and at which frames without a rate count as chosen.
DEFAULT_FPS = 2.0
DEFAULT_MIN_FRAMES, DEFAULT_MAX_FRAMES = 4, 768
#: What a frame's share of ``total_pixels`` may not fall below, in units of ``min_pixels``.
LEAST_SHARE = 1.05
#: Times that are tried for the clip that takes the most tokens; more frames are smaller ones.
MOST_TIMES = 2048


class QwenVideo(MediaAdapter):
    """Clips for both: a token for each block of patches of a pair of frames.

    Options: ``num_frames`` or ``fps``, the frames that count of a clip that wasn't sampled before,
    with ``min_frames`` and ``max_frames`` around what ``fps`` leads to; ``min_pixels`` and
    ``max_pixels`` (or ``size``), the area of a resized frame; ``total_pixels``, which all frames
    share; ``second_per_grid_ts``, seconds from one pair of frames to the next.
    """

    kind = "video"
    architectures = ARCHITECTURES
    encoders = (TOWER,)
    option_names = BOUND_NAMES | {
        *("num_frames", "fps", "min_frames", "max_frames", "do_sample_frames"),
        *("total_pixels", "second_per_grid_ts"),
    }
    embeds_fields = ("video_grid_thw",)

    def __init__(self, context: ModelContext) -> None:
        """Reads what the checkpoint says of its frames.

        Raises:
            ConfigError: a step or a size that isn't built, by name.
        """
        super().__init__(context)
        self._tower = read_tower_config(context.config, context.architecture)
        self._factor = self._tower.patch_size * self._tower.merge_size
        self._span = self._tower.temporal_patch_size
        section = _video_section(context.processor)
        self._bounds = checkpoint_bounds(section, self._tower, DEFAULT_BOUNDS)
        config = Section(context.config, "config.json")
        self._video_id = config.integer("video_token_id", DEFAULT_VIDEO_TOKEN_ID, at_least=0)
        self._per_second: float | None = None
        if context.architecture == QWEN2_5_VL:
            self._per_second = config.sub("vision_config").number(
                "tokens_per_second", DEFAULT_TOKENS_PER_SECOND
            )

    def placeholder(self, index: int) -> Placeholder:
        """``<|video_pad|>``, whatever the index; a start and an end belong around it."""
        return Placeholder(PLACEHOLDER, (self._video_id,), IN_CONTEXT)

    def template_part(self) -> Mapping[str, Any]:
        """The part for which the published template writes the placeholder."""
        return {"type": "video"}

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Every option, from the caller or else from the checkpoint or the published class.

        Raises:
            RequestError: a value of the wrong type or out of range, or bounds out of order.
        """
        refuse_sampling(kwargs)
        least = count(kwargs, "min_frames") or DEFAULT_MIN_FRAMES
        most = count(kwargs, "max_frames", least=self._span) or DEFAULT_MAX_FRAMES
        if least > most:
            raise RequestError(
                f"min_frames is {least} and max_frames {most}; the first may not be above the "
                "second."
            )
        total = kwargs.get("total_pixels")
        if total is not None and (type(total) is not int or total < 1):
            raise RequestError(f"total_pixels is {total!r}; it must be an integer of at least 1.")
        return {
            **resolved_bounds(kwargs, self._bounds),
            "total_pixels": total,
            "num_frames": count(kwargs, "num_frames"),
            "fps": numbers(kwargs, "fps"),
            "min_frames": least,
            "max_frames": most,
            "second_per_grid_ts": numbers(kwargs, "second_per_grid_ts"),
        }

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """A token a block; the grid is (times, rows, columns) of blocks.

        Raises:
            MediaError: one side is more than 200 times the other, the clip's rate isn't known
                where frames are chosen by it, or its tokens fill the model's context.
        """
        facts = ClipFacts.of(shape)
        indices = self._indices(facts, options)
        height, width = self._size(facts, len(indices), options)
        grid = (
            -(-len(indices) // self._span),
            height // self._factor,
            width // self._factor,
        )
        what = f"{len(indices)} frames of {width}×{height} pixels"
        lower = "max_pixels, total_pixels, fps or num_frames"
        check_length(math.prod(grid), self.context, what, lower)
        return self._grid_plan(grid, self._seconds(facts, len(indices), options))

    def _indices(self, facts: ClipFacts, options: Mapping[str, Any]) -> sampling.Indices:
        """The frames that count."""
        if facts.sampled:
            return tuple(range(facts.num_frames))
        wanted, fps = options["num_frames"], _one_rate(options["fps"])
        if wanted is None and fps is None:
            wanted, fps = facts.wanted_frames, facts.wanted_fps
        if fps is None and wanted is None:
            fps = DEFAULT_FPS
        indices = None
        if fps is not None:
            indices = sampling.qwen(
                facts.num_frames,
                facts.fps,
                fps=fps,
                min_frames=options["min_frames"],
                max_frames=options["max_frames"],
                temporal_patch=self._span,
            )
        if wanted is not None and (indices is None or len(indices) > wanted):
            indices = sampling.qwen(
                facts.num_frames,
                facts.fps,
                num_frames_wanted=wanted,
                temporal_patch=self._span,
            )
        assert indices is not None, "a count or a rate is always there"
        return indices

    def _size(
        self, facts: ClipFacts, num_frames: int, options: Mapping[str, Any]
    ) -> tuple[int, int]:
        """(height, width) of a resized frame, in pixels."""
        check_aspect_ratio(facts.height, facts.width)
        least, most = options["min_pixels"], self._most_pixels(num_frames, options)
        return smart_resize(facts.height, facts.width, self._factor, least, most)

    def _most_pixels(self, num_frames: int, options: Mapping[str, Any]) -> int:
        """Of a frame: ``max_pixels``, or an even share of ``total_pixels``."""
        most: int = options["max_pixels"]
        total = options["total_pixels"]
        if total is None:
            return most
        share: int = total * self._span // num_frames
        return max(min(most, share), int(LEAST_SHARE * options["min_pixels"]))

    def _seconds(
        self, facts: ClipFacts, num_frames: int, options: Mapping[str, Any]
    ) -> tuple[float, ...]:
        """From one time of the grid to the next: one number, or one for each clip of a prompt."""
        if options["second_per_grid_ts"]:
            given: tuple[float, ...] = options["second_per_grid_ts"]
            return given
        if facts.fps and facts.sampled:
            return (self._span / facts.fps,)
        if facts.fps:
            return (self._span / sampling.sampled_fps(num_frames, facts.num_frames, facts.fps),)
        return self._unknown_seconds(options)

    def _unknown_seconds(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        """The same, of frames whose rate nobody said."""
        return tuple(self._span / fps for fps in options["fps"] or (DEFAULT_FPS,))

    def _grid_plan(self, grid: tuple[int, int, int], seconds: tuple[float, ...]) -> MediaPlan:
        num_tokens = math.prod(grid)
        facts: dict[str, Any] = {}
        if self._per_second is not None:
            facts = {SECONDS_PER_GRID: seconds, TOKENS_PER_SECOND: self._per_second}
        patches = grid[1] * grid[2] * self._tower.merge_size**2
        return MediaPlan(
            num_tokens=num_tokens,
            token_ids=(self._video_id,) * num_tokens,
            grid=grid,
            facts=facts,
            num_pieces=num_pieces(grid[0], patches),
        )

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """A token a row; ``video_grid_thw`` (3,) says how they lie, in patches before merging.

        Raises:
            RequestError: a grid that is none of a clip, or that has another number of rows.
        """
        given = fields["video_grid_thw"].tolist()
        merge = self._tower.merge_size
        if (
            not (isinstance(given, list) and len(given) == 3)
            or not all(0 < side <= MOST_PATCHES for side in given)
            or any(side % merge for side in given[1:])
        ):
            raise RequestError(
                f"video_grid_thw is {given}; it must be [times, rows, columns] with rows and "
                f"columns of patches that are multiples of {merge}."
            )
        grid = (given[0], given[1] // merge, given[2] // merge)
        if math.prod(grid) != num_rows:
            raise RequestError(
                f"video_grid_thw is {given}, which takes {math.prod(grid)} embedding rows; "
                f"{num_rows} were given."
            )
        seconds = options["second_per_grid_ts"] or self._unknown_seconds(options)
        return self._grid_plan(grid, seconds)

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "pixels": (frames, height, width, 3) uint8, whole blocks of patches.

        Each frame is resized as it is decoded.
        """
        clip = loaded.value
        assert isinstance(clip, Clip), "the kind opens clips"
        _, rows, columns = plan.grid
        indices = self._indices(ClipFacts.of(loaded.shape), options)
        height, width = rows * self._factor, columns * self._factor
        pixels = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        for target, frame in zip(pixels, clip.frames(indices), strict=True):
            target[:] = resize(frame, height, width).numpy()
        return {TOWER: {"pixels": torch.from_numpy(pixels)}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """The clip that takes the most tokens; of several such, the one with the largest frames."""
        limit = self.context.decoder.max_positions
        best, most = (1, self._factor, self._factor), 0
        for times in range(1, min(limit, MOST_TIMES) + 1):
            size = self._largest_frame(times, limit // times, options)
            if size is None:
                break
            num_tokens = times * self._blocks(size, times, options)
            if num_tokens > most:
                best, most = (times * self._span, *size), num_tokens
            if most == limit:
                break
        return ClipFacts(*best, sampled=True).shape

    def _largest_frame(
        self, times: int, most_blocks: int, options: Mapping[str, Any]
    ) -> tuple[int, int] | None:
        """(height, width) of a frame that becomes as many blocks as any, up to ``most_blocks``."""
        least, area = options["min_pixels"], self._factor**2
        most = self._most_pixels(times * self._span, options)
        size = _largest_size(self._factor, least, most)
        if self._blocks(size, times, options) <= most_blocks:
            return size
        for blocks in range(most_blocks, max(0, most_blocks - MAX_ASPECT_RATIO), -1):
            sides = _sides(blocks)
            if sides is not None and least <= blocks * area <= most:
                return sides[0] * self._factor, sides[1] * self._factor
        return None

    def _blocks(self, size: tuple[int, int], times: int, options: Mapping[str, Any]) -> int:
        most = self._most_pixels(times * self._span, options)
        height, width = smart_resize(*size, self._factor, options["min_pixels"], most)
        return height * width // self._factor**2


_largest_size = lru_cache(maxsize=64)(largest_size)


def _sides(blocks: int) -> tuple[int, int] | None:
    """(rows, columns) of so many blocks, as near to a square as can be; None: no such frame."""
    for rows in range(math.isqrt(blocks), 0, -1):
        if blocks % rows == 0:
            columns = blocks // rows
            return (rows, columns) if columns <= MAX_ASPECT_RATIO * rows else None
    return None


def _one_rate(fps: tuple[float, ...]) -> float | None:
    """The rate by which frames are chosen.

    Raises:
        MediaError: several clips are to be sampled differently.
    """
    if len(set(fps)) > 1:
        raise MediaError(
            f"fps is {list(fps)}; a list is for frames that were sampled before. Give one number "
            "to choose frames by."
        )
    return fps[0] if fps else None


def _video_section(processor: Mapping[str, Any]) -> Section:
    """What the checkpoint says of frames.

    transformers 5 writes it as "video_processor" into ``processor_config.json``; where a checkpoint
    has only the flat ``preprocessor_config.json``, that counts for frames too, as it does there.
    """
    nested = processor.get("video_processor")
    if isinstance(nested, Mapping):
        return Section(nested, "processor_config.json: video_processor")
    if "image_processor" in processor:
        return Section({}, "processor_config.json")
    return Section(processor, "preprocessor_config.json")
