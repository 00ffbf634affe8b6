"""Containers read by PyAV, which brings FFmpeg.

FFmpeg is told which demuxer to take, which codecs it may open and how many pixels a frame may have,
so that a file can choose none of these. Packets are read twice: once to count them, which decodes
nothing, and once to decode those that are needed. Nobody seeks: packets that aren't needed are
skipped, which costs no more than copying them and is right in every container.

Within a run (``timeline``) a frame that isn't wanted and that no other frame refers to isn't
decoded either, and what isn't wanted is never converted.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from sensorium.errors import LimitError, UnsupportedError
from sensorium_media_video.clip import Clip, Frame
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.formats import CODEC_WORDS, CODECS, DEMUXERS, Format, damaged
from sensorium_media_video.frames import check_duration, check_frame_size
from sensorium_media_video.options import VideoOptions
from sensorium_media_video.orientation import UPRIGHT, Orientation, track_orientation
from sensorium_media_video.timeline import Packets, Run, Timeline, make_timeline

if TYPE_CHECKING:
    from types import ModuleType

#: FFmpeg's own names of decoders, where they differ from the codec's.
_DECODERS = (*sorted(CODECS), "libdav1d", "libvpx", "libvpx-vp9", "libaom-av1")
_READ_BYTES = 2**20
#: What a decoder may hold of a frame's size: a full buffer of references, and what is on its way.
_BUFFERED_FRAMES = 18


def is_installed() -> bool:
    """Whether PyAV is there."""
    try:
        _library("")
    except UnsupportedError:
        return False
    return True


def open_av(data: bytes, format: Format, options: VideoOptions) -> tuple[Clip, ClipFacts, int]:
    """Counts a clip's frames.

    Returns:
        The clip, its facts, and what decoding takes in memory.

    Raises:
        UnsupportedError: PyAV isn't installed, or a codec that isn't decoded.
        MediaError: the file is damaged, or has no frames.
        LimitError: more than the budgets allow.
    """
    file = _File(data, format, options)
    with closing(file.open()) as container:
        stream = file.stream(container)
        context = stream.codec_context
        height, width = int(context.height), int(context.width)
        check_frame_size(height, width, options)
        bits = max((part.bits for part in context.format.components), default=8)
        check_duration(_announced_s(container, stream), options)
        timeline = _timeline(container, stream, file)
        orientation = UPRIGHT
        if format.name == "MP4":
            orientation = track_orientation(data, stream.id)
    if not timeline.num_frames:
        raise damaged(format)
    check_duration(timeline.duration, options)
    clip = AvClip(file, timeline, height, width, orientation)
    shown_height, shown_width = orientation.size(height, width)
    facts = ClipFacts(
        timeline.num_frames,
        shown_height,
        shown_width,
        fps=timeline.fps,
        duration=timeline.duration,
        times=timeline.seconds,
    )
    bytes_per_pixel = _BUFFERED_FRAMES * (1.5 if bits <= 8 else 3) + 9
    return clip, facts, int(height * width * bytes_per_pixel)


class AvClip(Clip):
    """A clip in a container.

    Attributes:
        timeline: of its frames.
        num_decoded: packets that were decoded so far.
    """

    def __init__(
        self,
        file: _File,
        timeline: Timeline,
        height: int,
        width: int,
        orientation: Orientation,
    ) -> None:
        super().__init__(timeline.num_frames)
        self.timeline = timeline
        self.num_decoded = 0
        self._file = file
        self._height, self._width = height, width
        self._orientation = orientation

    def read(self, indices: tuple[int, ...]) -> Iterator[Frame]:
        """Decodes the fewest packets; from the first on where that leaves a frame out."""
        if not indices:
            return
        waiting = deque(indices)
        if self.timeline.is_timed:
            yield from self._taken(waiting, self.timeline.runs(indices), is_sparse=True)
        if waiting:  # a packet that was said to be a key frame was none, say
            yield from self._taken(waiting, self.timeline.whole(waiting), is_sparse=False)
        if waiting:
            raise damaged(self._file.format)

    def _taken(
        self, waiting: deque[int], runs: Sequence[Run], *, is_sparse: bool
    ) -> Iterator[Frame]:
        """The frames that ``waiting`` holds, taken from it, until one is missing."""
        with closing(self._decode(runs, is_sparse=is_sparse)) as decoded:
            for index, frame in decoded:
                if index != waiting[0]:
                    return
                while waiting and waiting[0] == index:
                    waiting.popleft()
                    yield frame

    def _decode(
        self, runs: Sequence[Run], *, is_sparse: bool
    ) -> Generator[tuple[int, Frame], None, None]:
        """The wanted frames of the runs, each once, with their indices."""
        with closing(self._file.open()) as container:
            stream = self._file.stream(container)
            context = stream.codec_context
            context.thread_count = self._file.options.decoder_threads
            context.thread_type = "AUTO"
            context.options = {"max_pixels": str(self._file.max_pixels)}
            packets = enumerate(_packets(container, stream))
            for run in runs:
                told = _Told(self.timeline, run)
                for place, packet in packets:
                    if place < run.start:
                        continue
                    if is_sparse:
                        context.skip_frame = "DEFAULT" if told.is_wanted(place) else "NONREF"
                    self.num_decoded += 1
                    yield from self._converted(told, _decoded(context, packet))
                    if told.is_done or place + 1 >= run.stop:
                        break
                if not told.is_done:
                    yield from self._converted(told, _decoded(context, None))
                context.flush_buffers()

    def _converted(self, told: _Told, frames: Sequence[Any]) -> Iterator[tuple[int, Frame]]:
        for frame in frames:
            index = told.index_of(frame)
            if index is None:
                continue
            rgb: Frame = frame.reformat(
                width=self._width,
                height=self._height,
                format="rgb24",
                interpolation="BICUBIC",
                threads=1,
            ).to_ndarray()
            yield index, self._orientation.apply(rgb)


class _Told:
    """Tells the frames of one run: by their times, or by counting them."""

    def __init__(self, timeline: Timeline, run: Run) -> None:
        self._is_timed = timeline.is_timed
        self._indices = {int(timeline.times[index]): index for index in run.wanted}
        self._places = {int(timeline.places[index]) for index in run.wanted}
        self._num_left = len(self._indices)
        self._num_seen = 0

    @property
    def is_done(self) -> bool:
        """Whether all that were wanted have come."""
        return not self._num_left

    def is_wanted(self, place: int) -> bool:
        """Whether the packet at this place gives a frame that is wanted."""
        return place in self._places

    def index_of(self, frame: Any) -> int | None:
        """The frame's index, if it is wanted."""
        time = frame.pts if self._is_timed else self._num_seen
        self._num_seen += 1
        index = self._indices.pop(time, None)
        self._num_left -= index is not None
        return index


class _File:
    """A clip's bytes and how they may be opened."""

    def __init__(self, data: bytes, format: Format, options: VideoOptions) -> None:
        self.data = data
        self.format = format
        self.options = options
        # Decoders count whole blocks, and some of them a border.
        self.max_pixels = options.max_frame_pixels * 5 // 4 + 2**16
        self._av = _library(format.spoken)

    def open(self) -> Any:
        """A container at its beginning; to be closed."""
        limits = {"codec_whitelist": ",".join(_DECODERS), "max_pixels": str(self.max_pixels)}
        try:
            return self._av.open(
                io.BytesIO(self.data),
                format=DEMUXERS[self.format.name],
                metadata_errors="ignore",
                buffer_size=_READ_BYTES,
                options=limits,
            )
        except Exception:  # FFmpeg's errors are of many classes
            raise damaged(self.format) from None

    def stream(self, container: Any) -> Any:
        """The container's first stream of frames that is no cover picture.

        Raises:
            UnsupportedError: of a codec that isn't decoded.
            MediaError: there is none.
        """
        for stream in container.streams.video:
            if "attached_pic" in str(stream.disposition):
                continue
            context = stream.codec_context
            name = None if context is None else context.codec.canonical_name
            if name not in CODECS or context.width < 1 or context.format is None:
                raise UnsupportedError(
                    f"the {self.format.spoken} file's video is in a codec that isn't decoded, or "
                    f"damaged; decoded are {CODEC_WORDS}."
                )
            return stream
        raise damaged(self.format)


def _timeline(container: Any, stream: Any, file: _File) -> Timeline:
    """Counts the packets.

    Raises:
        LimitError: more of them than ``max_frames``.
    """
    most = file.options.max_frames
    packets = Packets()
    codec = stream.codec_context.codec.canonical_name
    # An AVI file holds no times, and FFmpeg guesses them; where every packet is a frame, rightly.
    trusted = file.format.name != "AVI" or codec == "mjpeg"
    for packet in _packets(container, stream):
        is_hidden = packet.is_discard or packet.is_corrupt
        if codec == "vp8" and not _vp8_is_shown(packet):
            is_hidden = True
        packets.times.append(packet.pts if trusted else packet.dts)
        packets.keys.append(bool(packet.is_keyframe))
        packets.shown.append(not is_hidden)
        packets.durations.append(packet.duration or 0)
        if len(packets.times) > most:
            raise LimitError(f"it has more than {most} frames, which max_frames allows.")
    fps = float(stream.average_rate or 0)
    return make_timeline(packets, stream.time_base, fps, trusted=trusted)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets with data in them; a file that is cut off ends there."""
    with suppress(Exception):
        for packet in container.demux(stream):
            if packet.size:
                yield packet


def _vp8_is_shown(packet: Any) -> bool:
    """The bit "show_frame" of a VP8 frame (RFC 6386, 9.1)."""
    first = bytes(memoryview(packet)[:1])
    return bool(first and first[0] & 0x10)


def _announced_s(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / 1_000_000


def _decoded(context: Any, packet: Any) -> list[Any]:
    """The frames that come of a packet; none if it is damaged: that shows in what is missing."""
    try:
        return list(context.decode(packet))
    except Exception:
        return []


def _library(name: str) -> ModuleType:
    try:
        import av
    except ImportError:
        raise UnsupportedError(
            f"{name} files are decoded by PyAV, which isn't installed: "
            "pip install 'sensorium-media-video[av]'."
        ) from None
    return av
