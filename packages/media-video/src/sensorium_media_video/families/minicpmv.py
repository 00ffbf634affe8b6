"""Clips for MiniCPM-V-2.6 (Yao et al. 2024): frames as images of few slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sensorium.errors import MediaError, RequestError
from sensorium.plugins import MediaAdapter, ModelContext, Placeholder
from sensorium.types import Features, Loaded, MediaPlan, MediaShape
from sensorium_media_image.families.minicpmv import (
    ARCHITECTURE,
    TOWER,
    ViewLayout,
    given_size,
    slice_count,
)
from sensorium_media_image.pieces import num_pieces
from sensorium_media_image.slicing import PATCH, Slicing
from sensorium_media_video import sampling
from sensorium_media_video.clip import Clip
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.families.choices import count, number, refuse_sampling
from sensorium_media_video.families.length import check_length

PLACEHOLDER = "(<video>./</video>)"
#: The published recipe: a frame a second, 64 at most, each in up to two slices.
DEFAULT_FPS, DEFAULT_NUM_FRAMES, DEFAULT_SLICES = 1.0, 64, 2


class MiniCPMVVideo(MediaAdapter):
    """Clips as frames in lines of their own, each a view and, if it is large, slices.

    Options: ``num_frames`` and ``fps``, how many frames count at most of a clip that wasn't sampled
    before, and of a second of it; ``video_max_slice_nums``, the most slices of a frame.
    """

    kind = "video"
    architectures = (ARCHITECTURE,)
    encoders = (TOWER,)
    option_names = frozenset({"num_frames", "fps", "video_max_slice_nums", "do_sample_frames"})
    embeds_fields = ("video_image_sizes",)

    def __init__(self, context: ModelContext) -> None:
        """As ``ViewLayout``."""
        super().__init__(context)
        self._layout = ViewLayout(context)

    def placeholder(self, index: int) -> Placeholder:
        """``(<video>./</video>)``, whatever the index."""
        return Placeholder(PLACEHOLDER, (), PLACEHOLDER)

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Every option; ``num_frames`` and ``fps`` are None where the caller doesn't say.

        Raises:
            RequestError: a value of the wrong type or out of range.
        """
        refuse_sampling(kwargs)
        return {
            "num_frames": count(kwargs, "num_frames"),
            "fps": number(kwargs, "fps"),
            "video_max_slice_nums": slice_count(kwargs, "video_max_slice_nums", DEFAULT_SLICES),
        }

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """The rows of each frame's views, between the tokens that mark them, a line a frame.

        Raises:
            MediaError: one side is more than 200 times the other, the clip's rate isn't known
                where frames are chosen by it, or its tokens fill the model's context.
        """
        facts = ClipFacts.of(shape)
        slicing = self._slicing(facts.height, facts.width, options)
        return self._frames_plan(len(self._indices(facts, options)), slicing)

    def _slicing(self, height: int, width: int, options: Mapping[str, Any]) -> Slicing:
        return self._layout.slicing(height, width, options["video_max_slice_nums"])

    def _indices(self, facts: ClipFacts, options: Mapping[str, Any]) -> sampling.Indices:
        """The frames that count."""
        if facts.sampled:
            return tuple(range(facts.num_frames))
        wanted, fps = options["num_frames"], options["fps"]
        if wanted is None and fps is None:
            wanted, fps = facts.wanted_frames, facts.wanted_fps
        if wanted is not None and fps is None and not facts.fps:
            # Of a clip whose rate nobody knows, every frame may be chosen.
            return sampling.minicpm(facts.num_frames, 1.0, fps=1.0, num_frames_wanted=wanted)
        most = wanted if wanted is not None or fps is not None else DEFAULT_NUM_FRAMES
        return sampling.minicpm(
            facts.num_frames, facts.fps, fps=fps or DEFAULT_FPS, num_frames_wanted=most
        )

    def _frame_ids(self, slicing: Slicing) -> tuple[int, ...]:
        return self._layout.token_ids(slicing.rows, slicing.columns)

    def _frames_plan(self, num_frames: int, slicing: Slicing) -> MediaPlan:
        frame, newline = self._frame_ids(slicing), self._layout.newline
        check_length(
            num_frames * (len(frame) + len(newline)) - len(newline),
            self.context,
            f"{num_frames} frames of {slicing.num_views} views",
            "fps, num_frames or video_max_slice_nums",
        )
        token_ids = frame + (*newline, *frame) * (num_frames - 1)
        patches = slicing.num_views * (self._layout.scale // PATCH) ** 2
        return self._layout.plan(token_ids, num_pieces=num_pieces(num_frames, patches))

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """As for frames of ``video_image_sizes`` (2,): (width, height) in pixels before slicing.

        Raises:
            RequestError: a size that is none, or rows that aren't those of whole frames.
        """
        height, width = given_size(fields, "video_image_sizes")
        try:
            slicing = self._slicing(height, width, options)
        except MediaError as error:
            raise RequestError(f"video_image_sizes is {[width, height]}: {error}") from error
        per_frame = slicing.num_views * self._layout.num_queries
        num_frames, rest = divmod(num_rows, per_frame)
        if num_frames < 1 or rest:
            raise RequestError(
                f"video_image_sizes is {[width, height]}, of which a frame takes {per_frame} "
                f"embedding rows; {num_rows} were given."
            )
        return self._frames_plan(num_frames, slicing)

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "view": (frames, h, w, 3) and, if they are sliced, "slices": (frames · n, h, w, 3).

        Both uint8; each frame is resized as it is decoded.
        """
        clip = loaded.value
        assert isinstance(clip, Clip), "the kind opens clips"
        facts = ClipFacts.of(loaded.shape)
        slicing = self._slicing(facts.height, facts.width, options)
        views = [
            self._layout.views(frame, slicing)
            for frame in clip.frames(self._indices(facts, options))
        ]
        return {TOWER: {name: torch.cat([view[name] for view in views]) for name in views[0]}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """As many frames, of as many slices, as take the most rows that the context holds."""
        scale, newline = self._layout.scale, len(self._layout.newline)
        positions = self.context.decoder.max_positions
        best, most = (1, scale, scale), 0
        for slices in range(1, options["video_max_slice_nums"] + 1):
            slicing = self._slicing(scale, scale * slices, options)
            per_frame = len(self._frame_ids(slicing)) + newline
            num_frames = (positions + newline) // per_frame
            if num_frames * slicing.num_views > most:
                best, most = (num_frames, scale, scale * slices), num_frames * slicing.num_views
        return ClipFacts(*best, sampled=True).shape
