"""``Clip``: an opened clip, whose frames are decoded as they are asked for.

What ``VideoKind`` loads. A frame is a contiguous uint8 array (height, width, 3), RGB, upright;
adapters must not write to it: it may be the caller's own memory. A clip holds no frame after the
next one is asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sensorium.plugins.reader import MediaReader

Frame = npt.NDArray[np.uint8]


class Clip(MediaReader):
    """Derive from it and define ``read``; and ``close`` where a clip holds something open.

    Args:
        num_frames: frames that can be asked for.
    """

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames with these indices, one after another; an index may come several times.

        Args:
            indices: ascending, 0 … ``num_frames`` - 1, in the order in which frames are shown.

        Raises:
            ValueError: indices that descend, or that no frame has.
            MediaError: the clip can't be read on.
            LimitError: a frame is larger than the header said, and than is allowed.
        """
        wanted = tuple(int(index) for index in indices)
        if any(one > other for one, other in pairwise(wanted)):
            raise ValueError("a clip's frames are read forward: their indices must ascend")
        if wanted and not (wanted[0] >= 0 and wanted[-1] < self.num_frames):
            raise ValueError(
                f"frames {wanted[0]} to {wanted[-1]} were asked for; a clip of "
                f"{self.num_frames} frames has 0 to {self.num_frames - 1}"
            )
        return self.pieces(wanted)

    def read_pieces(self, wanted: Any) -> Iterator[Frame]:
        """The frames whose ascending indices ``wanted`` holds; None: all."""
        yield from self.read(tuple(range(self.num_frames)) if wanted is None else wanted)

    @abstractmethod
    def read(self, indices: tuple[int, ...]) -> Iterator[Frame]:
        """The frames with these indices, which ``frames`` has checked."""

    def close(self) -> None:
        """Nothing to release, by default."""


class BlankClip(Clip):
    """Black frames, for memory profiling."""

    def __init__(self, num_frames: int, height: int, width: int) -> None:
        super().__init__(num_frames)
        self._frame = np.zeros((height, width, 3), dtype=np.uint8)

    def read(self, indices: tuple[int, ...]) -> Iterator[Frame]:
        """The same black frame for each."""
        for _ in indices:
            yield self._frame
