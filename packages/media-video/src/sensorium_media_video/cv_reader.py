"""Containers read by OpenCV: the second implementation, for whoever has it and no PyAV.

OpenCV tells no packets, and the number of frames that it states may be wrong. So all frames are
decoded once to count them, and up to the last wanted one again. The counts of the latest files are
kept, since a file that is probed is loaded next. It can't be told which codecs it
may open, nor how large a frame may become: with files from strangers PyAV is safer. OpenCV's wheels
decode no AV1.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from sensorium.errors import LimitError, UnsupportedError
from sensorium.media.digest import Digest
from sensorium_media_video.clip import Clip, Frame
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.formats import CODEC_WORDS, Format, damaged
from sensorium_media_video.frames import check_duration, check_frame_size
from sensorium_media_video.options import VideoOptions
from sensorium_media_video.timeline import Packets, make_timeline

if TYPE_CHECKING:
    from types import ModuleType

#: OpenCV's times are milliseconds in a float; kept as whole microseconds.
_TIME_BASE = Fraction(1, 1_000_000)
#: What the decoder's buffers, OpenCV's picture and its copy take.
_BYTES_PER_PIXEL = 40
_MOST_KEPT_TIMES = 10_000
#: How files call the codecs that are decoded; "\\0" and letters' case don't count.
_FOURCCS = frozenset(
    "h264 avc1 avc3 x264 davc hevc hev1 hvc1 h265 av01 vp80 vp08 vp90 vp09 fmp4 mp4v xvid divx "
    "dx50 mjpg jpeg mjpa mjpb".split()
)


def is_installed() -> bool:
    """Whether OpenCV is there, under whichever of its distributions' names."""
    try:
        _library()
    except UnsupportedError:
        return False
    return True


def open_cv(data: bytes, format: Format, options: VideoOptions) -> tuple[Clip, ClipFacts, int]:
    """Counts a clip's frames, which decodes them.

    Returns:
        The clip, its facts, and what decoding takes in memory.

    Raises:
        UnsupportedError: OpenCV isn't installed, or a codec that isn't decoded.
        MediaError: the file is damaged, or has no frames.
        LimitError: more than the budgets allow.
    """
    key = (Digest("sensorium video counted by OpenCV").add(data).digest(), options)
    facts = _COUNTED.get(key)
    if facts is None:
        facts = _counted(data, format, options)
        _COUNTED.put(key, facts)
    clip = CvClip(data, format, options, facts)
    return clip, facts, _BYTES_PER_PIXEL * facts.height * facts.width


class _Latest:
    """The facts of the files that were counted last; used from any thread.

    Args:
        room: files at most. Those with many times of their own are not kept.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._facts: OrderedDict[Hashable, ClipFacts] = OrderedDict()

    def get(self, key: Hashable) -> ClipFacts | None:
        with self._lock:
            return self._facts.get(key)

    def put(self, key: Hashable, facts: ClipFacts) -> None:
        if len(facts.times) > _MOST_KEPT_TIMES:
            return
        with self._lock:
            self._facts[key] = facts
            if len(self._facts) > self._room:
                self._facts.popitem(last=False)


_COUNTED = _Latest(32)


def _counted(data: bytes, format: Format, options: VideoOptions) -> ClipFacts:
    """What decoding all frames tells. Errors are those of ``open_cv``."""
    cv2 = _library()
    packets = Packets()
    with _opened(cv2, data, format, options) as capture:
        height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        check_frame_size(height, width, options)
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        fps = fps if np.isfinite(fps) and fps > 0 else 0.0
        if fps:
            check_duration(capture.get(cv2.CAP_PROP_FRAME_COUNT) / fps, options)
        while capture.grab():
            packets.times.append(round(1_000 * capture.get(cv2.CAP_PROP_POS_MSEC)))
            packets.keys.append(False)
            packets.shown.append(True)
            packets.durations.append(0)
            if len(packets.times) > options.max_frames:
                raise LimitError(
                    f"it has more than {options.max_frames} frames, which max_frames allows."
                )
        codec = _codec(cv2, capture)
    if not packets.times and codec == "av01":
        raise UnsupportedError(
            "the file's video is AV1, which OpenCV doesn't decode; PyAV does: "
            "pip install 'sensorium-media-video[av]'."
        )
    if not packets.times:
        raise damaged(format)
    timeline = make_timeline(packets, _TIME_BASE, fps, trusted=format.name != "AVI")
    check_duration(timeline.duration, options)
    return ClipFacts(
        timeline.num_frames,
        height,
        width,
        fps=timeline.fps,
        duration=timeline.duration,
        times=timeline.seconds,
    )


class CvClip(Clip):
    """A clip in a container."""

    def __init__(
        self, data: bytes, format: Format, options: VideoOptions, facts: ClipFacts
    ) -> None:
        super().__init__(facts.num_frames)
        self._data, self._format, self._options = data, format, options
        self._size = (facts.height, facts.width)

    def read(self, indices: tuple[int, ...]) -> Iterator[Frame]:
        """Decodes forward; frames that aren't wanted aren't converted."""
        cv2 = _library()
        with _opened(cv2, self._data, self._format, self._options) as capture:
            place = -1
            frame: Frame | None = None
            for index in indices:
                while place < index:
                    if not capture.grab():
                        raise damaged(self._format)
                    place, frame = place + 1, None
                if frame is None:
                    frame = self._retrieved(cv2, capture)
                yield frame

    def _retrieved(self, cv2: ModuleType, capture: Any) -> Frame:
        found, picture = capture.retrieve()
        if not found or picture.ndim != 3:
            raise damaged(self._format)
        height, width = self._size
        if picture.shape[:2] != self._size:  # it changes in the middle
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        frame: Frame = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        return frame


@contextmanager
def _opened(cv2: ModuleType, data: bytes, format: Format, options: VideoOptions) -> Iterator[Any]:
    settings = [cv2.CAP_PROP_N_THREADS, options.decoder_threads]
    file = io.BytesIO(data)  # OpenCV doesn't keep it alive, and reads freed memory once it is gone
    try:
        capture = cv2.VideoCapture(file, cv2.CAP_FFMPEG, settings)
        is_open = capture.isOpened()
    except Exception:  # its own errors' texts may hold addresses and paths
        raise damaged(format) from None
    if not is_open:
        raise damaged(format)
    try:
        if _codec(cv2, capture) not in _FOURCCS:
            raise UnsupportedError(
                f"the {format.spoken} file's video is in a codec that isn't decoded, or damaged; "
                f"decoded are {CODEC_WORDS}."
            )
        yield capture
    finally:
        capture.release()
        file.close()


def _codec(cv2: ModuleType, capture: Any) -> str:
    number = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    return number.to_bytes(4, "little").decode("latin-1").strip("\0 ").lower()


def _library() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise UnsupportedError(
            "the reader is OpenCV, which isn't installed: "
            "pip install 'sensorium-media-video[opencv]'."
        ) from None
    library: ModuleType = cv2
    return library
