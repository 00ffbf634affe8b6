"""Clips for LLaVA-OneVision (Li et al. 2024): each frame at a quarter of an image's rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sensorium.errors import RequestError
from sensorium.plugins import MediaAdapter, ModelContext, Placeholder
from sensorium.types import Features, Loaded, MediaPlan, MediaShape
from sensorium_media_image.families.onevision import ARCHITECTURE, TOWER, check_pixels
from sensorium_media_image.fields import Section
from sensorium_media_image.pieces import num_pieces
from sensorium_media_image.resize import resize
from sensorium_media_image.smart_resize import check_aspect_ratio
from sensorium_media_image.towers.onevision import read_onevision_config
from sensorium_media_video import sampling
from sensorium_media_video.clip import Clip
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.families.choices import count, number, refuse_sampling
from sensorium_media_video.families.length import check_length

PLACEHOLDER = "<video>"
DEFAULT_VIDEO_TOKEN_ID = 151647
#: Frames at most that are chosen, where nobody says how many or at what rate (vLLM's default).
DEFAULT_NUM_FRAMES = 32


class OneVisionVideo(MediaAdapter):
    """Clips as frames squeezed into a tile, each a square of rows, and one row behind the last.

    Options: ``num_frames`` and ``fps``, how many frames count at most of a clip that wasn't sampled
    before, and of a second of it.
    """

    kind = "video"
    architectures = (ARCHITECTURE,)
    encoders = (TOWER,)
    option_names = frozenset({"num_frames", "fps", "do_sample_frames"})

    def __init__(self, context: ModelContext) -> None:
        """Reads what the checkpoint says of its pixels.

        Raises:
            ConfigError: a step or a size that isn't built, by name.
        """
        super().__init__(context)
        tower = read_onevision_config(context.config)
        check_pixels(context.processor, tower)
        self._tile = tower.anyres.tile
        self._patches = tower.anyres.patches**2
        self._frame_rows = (-(-tower.anyres.patches // 2)) ** 2
        config = Section(context.config, "config.json")
        key = "video_token_id" if "video_token_id" in config.values else "video_token_index"
        self._video_id = config.integer(key, DEFAULT_VIDEO_TOKEN_ID, at_least=0)

    def placeholder(self, index: int) -> Placeholder:
        """``<video>``, whatever the index."""
        return Placeholder(PLACEHOLDER, (self._video_id,), PLACEHOLDER)

    def template_part(self) -> Mapping[str, Any]:
        """The part for which the published template writes the placeholder."""
        return {"type": "video"}

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """``num_frames`` and ``fps``, None where the caller doesn't say.

        Raises:
            RequestError: a value of the wrong type or out of range.
        """
        refuse_sampling(kwargs)
        return {"num_frames": count(kwargs, "num_frames"), "fps": number(kwargs, "fps")}

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """As many rows for each frame, and one.

        Raises:
            MediaError: one side is more than 200 times the other, the clip's rate isn't known
                where frames are chosen by it, or its tokens fill the model's context.
        """
        facts = ClipFacts.of(shape)
        check_aspect_ratio(facts.height, facts.width)
        return self._frames_plan(len(self._indices(facts, options)))

    def _indices(self, facts: ClipFacts, options: Mapping[str, Any]) -> sampling.Indices:
        """The frames that count."""
        if facts.sampled:
            return tuple(range(facts.num_frames))
        wanted, fps = options["num_frames"], options["fps"]
        if wanted is None and fps is None:
            wanted, fps = facts.wanted_frames, facts.wanted_fps
        if wanted is None and fps is None:
            wanted = DEFAULT_NUM_FRAMES
        return sampling.onevision(facts.num_frames, facts.fps, num_frames_wanted=wanted, fps=fps)

    def _frames_plan(self, num_frames: int) -> MediaPlan:
        num_tokens = num_frames * self._frame_rows + 1
        check_length(num_tokens, self.context, f"{num_frames} frames", "fps or num_frames")
        return MediaPlan(
            num_tokens=num_tokens,
            token_ids=(self._video_id,) * num_tokens,
            num_pieces=num_pieces(num_frames, self._patches),
        )

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """As for a clip with as many rows.

        Raises:
            RequestError: a number of rows that no clip has.
        """
        num_frames, rest = divmod(num_rows - 1, self._frame_rows)
        if num_frames < 1 or rest:
            raise RequestError(
                f"its embeddings have {num_rows} rows; a clip of this model has {self._frame_rows} "
                "for each frame, and one."
            )
        return self._frames_plan(num_frames)

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "frames": (frames, S, S, 3) uint8, each resized as it is decoded."""
        clip = loaded.value
        assert isinstance(clip, Clip), "the kind opens clips"
        indices = self._indices(ClipFacts.of(loaded.shape), options)
        frames = np.empty((len(indices), self._tile, self._tile, 3), dtype=np.uint8)
        for target, frame in zip(frames, clip.frames(indices), strict=True):
            target[:] = resize(frame, self._tile, self._tile).numpy()
        return {TOWER: {"frames": torch.from_numpy(frames)}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """As many frames as the context holds, chosen before."""
        most = (self.context.decoder.max_positions - 1) // self._frame_rows
        return ClipFacts(max(1, most), self._tile, self._tile, sampled=True).shape
