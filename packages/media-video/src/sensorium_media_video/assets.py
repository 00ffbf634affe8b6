"""A small clip for examples and first trials: ``from sensorium.assets.video import VideoAsset``.

It is drawn by a script of ours (``packages/media-video/tools/draw_assets.py``), not recorded, and
has the package's licence (Apache-2.0). Its name is one that users of vLLM's examples know.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sensorium.errors import ConfigError
from sensorium_media_video.clip import Frame
from sensorium_media_video.encoded import open_encoded
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.options import VideoOptions
from sensorium_media_video.sampling import Indices, onevision

NAMES = ("baby_reading",)
#: Where the files are served, if they are: the beginning of their URLs.
URL_VARIABLE = "SENSORIUM_ASSETS_URL"


@dataclass(frozen=True, slots=True)
class VideoAsset:
    """A clip that comes with this package.

    Attributes:
        name: one of ``NAMES``.
        num_frames: frames of it, evenly chosen; -1: all.

    Raises:
        ConfigError: another name, or number of frames.
    """

    name: str
    num_frames: int = -1

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(
                f"There is no video asset {self.name!r}; there is {', '.join(NAMES)}."
            )
        if self.num_frames != -1 and self.num_frames < 1:
            raise ConfigError(
                f"num_frames is {self.num_frames}; it must be at least 1, or -1 for all frames."
            )

    @property
    def filename(self) -> str:
        """The file's name, MP4 with H.264."""
        return f"{self.name}.mp4"

    @property
    def video_path(self) -> str:
        """The file's path."""
        return str(self.get_local_path())

    def get_local_path(self) -> Path:
        """The file."""
        return Path(str(resources.files("sensorium_media_video") / "asset_files" / self.filename))

    @property
    def url(self) -> str:
        """Its address: below ``SENSORIUM_ASSETS_URL`` where that is set, else the file's."""
        base = os.environ.get(URL_VARIABLE)
        return f"{base.rstrip('/')}/{self.filename}" if base else self.get_local_path().as_uri()

    @property
    def np_ndarrays(self) -> npt.NDArray[np.uint8]:
        """The frames (frames, height, width, 3)."""
        return np.stack(self._frames()[0])

    @property
    def pil_images(self) -> list[Image.Image]:
        """The frames."""
        return [Image.fromarray(frame) for frame in self._frames()[0]]

    @property
    def metadata(self) -> dict[str, Any]:
        """What goes beside the frames: ``(asset.np_ndarrays, asset.metadata)`` is a clip."""
        _, indices, facts = self._frames()
        return {
            "total_num_frames": facts.num_frames,
            "fps": facts.fps,
            "duration": facts.duration,
            "frames_indices": list(indices),
            "do_sample_frames": len(indices) == facts.num_frames,
        }

    def _frames(self) -> tuple[list[Frame], Indices, ClipFacts]:
        clip, facts, _ = open_encoded(self.get_local_path().read_bytes(), VideoOptions())
        with closing(clip):
            count = facts.num_frames if self.num_frames == -1 else self.num_frames
            indices = onevision(facts.num_frames, facts.fps, num_frames_wanted=count)
            return [frame.copy() for frame in clip.frames(indices)], indices, facts
