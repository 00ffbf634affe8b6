"""``ClipFacts``: all that a plan may depend on of a clip, as a ``MediaShape`` and back.

The facts stay small: a clip whose frames are shown at one rate has no list of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from sensorium.types import MediaShape

SIZE_NAMES = ("num_frames", "height", "width")
FACT_NAMES = ("times", "fps", "duration", "sampled", "wanted_frames", "wanted_fps")


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What is known of a clip before any frame is decoded.

    Attributes:
        num_frames, height, width: as its frames will be; height and width upright.
        fps: frames a second, on average; 0 where nobody said.
        duration: seconds from the first frame to the end of the last; 0 where nobody said.
        times: when each frame is shown, in seconds from the beginning of the clip; () where that
            is ``index / fps``.
        sampled: the frames were chosen before they came here, and none of them may be left out:
            all of them count. ``fps`` is then the rate of what was chosen.
        wanted_frames, wanted_fps: ``num_frames`` and ``fps`` of ``media_io_kwargs["video"]``, for
            the families' rules; None where the operator didn't say. ``mm_processor_kwargs`` of the
            same names go before.
    """

    num_frames: int
    height: int
    width: int
    fps: float = 0.0
    duration: float = 0.0
    times: tuple[float, ...] = ()
    sampled: bool = False
    wanted_frames: int | None = None
    wanted_fps: float | None = None

    @classmethod
    def of(cls, shape: MediaShape) -> ClipFacts:
        """Reads a shape of the kind's; facts that are missing have their defaults."""
        num_frames, height, width = shape.size
        return cls(num_frames, height, width, **cast("dict[str, Any]", dict(shape.facts)))

    @property
    def shape(self) -> MediaShape:
        """The same as a shape."""
        facts = {name: getattr(self, name) for name in FACT_NAMES}
        return MediaShape((self.num_frames, self.height, self.width), facts)

    def time_of(self, index: int) -> float:
        """When a frame is shown, in seconds; 0 where the rate isn't known."""
        if self.times:
            return self.times[index]
        return index / self.fps if self.fps else 0.0
