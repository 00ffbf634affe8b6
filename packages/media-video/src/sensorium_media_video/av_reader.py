"""Containers read by PyAV.

Packets are read twice: once to count them, which decodes nothing, and once to decode those that are
needed (``AvDecoder``). With several threads the runs of a clip are decoded side by side.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from sensorium.errors import LimitError, UnsupportedError
from sensorium_media_video.av_decoder import AvDecoder
from sensorium_media_video.av_file import AvFile, library, packets_of
from sensorium_media_video.clip import Clip, Frame
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.formats import Format, damaged
from sensorium_media_video.frames import check_duration, check_frame_size
from sensorium_media_video.options import VideoOptions
from sensorium_media_video.orientation import UPRIGHT, Orientation, track_orientation
from sensorium_media_video.side_by_side import FRAMES_AHEAD, Found, SideBySide, num_decoders
from sensorium_media_video.timeline import Packets, Run, Timeline, make_timeline

#: Frames that a decoder may keep, beside one for each of its threads.
_KEPT_FRAMES = 17


def is_installed() -> bool:
    """Whether PyAV is there."""
    try:
        library("")
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
    file = AvFile(data, format, options)
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
    return clip, facts, _decoding_bytes(height * width, bits, timeline, options)


class AvClip(Clip):
    """A clip in a container.

    Attributes:
        timeline: of its frames.
        num_decoded: packets that were decoded so far.
    """

    def __init__(
        self,
        file: AvFile,
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
        self._counting = threading.Lock()
        self._reading: set[SideBySide] = set()

    def close(self) -> None:
        """Ends the threads that still decode."""
        for decoders in tuple(self._reading):
            decoders.close()

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

    def _decode(self, runs: Sequence[Run], *, is_sparse: bool) -> Generator[Found, None, None]:
        """The wanted frames of the runs, each once, with their indices."""
        num_threads = self._file.options.decoder_threads
        if num_threads == 1:
            with self._decoder(1, threading.Event(), is_sparse=is_sparse) as decoder:
                for run in runs:
                    yield from decoder.frames(run)
            return
        count = num_decoders(runs, num_threads)
        open_decoder = partial(self._decoder, num_threads // count, is_sparse=is_sparse)
        with closing(SideBySide(runs, open_decoder, count)) as decoders:
            self._reading.add(decoders)
            try:
                yield from decoders.frames()
            finally:
                self._reading.discard(decoders)

    @contextmanager
    def _decoder(
        self, num_threads: int, stopped: threading.Event, *, is_sparse: bool
    ) -> Iterator[AvDecoder]:
        """A decoder in a container of its own."""
        with closing(self._file.open()) as container:
            stream = self._file.stream(container)
            context = stream.codec_context
            context.thread_count = num_threads
            context.thread_type = "AUTO"
            context.options = {"max_pixels": str(self._file.max_pixels)}
            decoder = AvDecoder(
                context,
                packets_of(container, stream),
                self.timeline,
                self._convert,
                is_sparse=is_sparse,
                stopped=stopped,
            )
            try:
                yield decoder
            finally:
                with self._counting:
                    self.num_decoded += decoder.num_decoded

    def _convert(self, frame: Any) -> Frame:
        rgb: Frame = frame.reformat(
            width=self._width,
            height=self._height,
            format="rgb24",
            interpolation="BICUBIC",
            threads=1,
        ).to_ndarray()
        return self._orientation.apply(rgb)


def _timeline(container: Any, stream: Any, file: AvFile) -> Timeline:
    """Counts the packets.

    Raises:
        LimitError: more of them than ``max_frames``.
    """
    most = file.options.max_frames
    packets = Packets()
    codec = stream.codec_context.codec.canonical_name
    # An AVI file holds no times, and FFmpeg guesses them; where every packet is a frame, rightly.
    trusted = file.format.name != "AVI" or codec == "mjpeg"
    for packet in packets_of(container, stream):
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


def _vp8_is_shown(packet: Any) -> bool:
    """The bit "show_frame" of a VP8 frame (RFC 6386, 9.1)."""
    first = bytes(memoryview(packet)[:1])
    return bool(first and first[0] & 0x10)


def _announced_s(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / 1_000_000


def _decoding_bytes(num_pixels: int, bits: int, timeline: Timeline, options: VideoOptions) -> int:
    """What decoding takes at its peak; a picture's own copies are three, of 3 bytes a pixel."""
    num_threads = options.decoder_threads
    most_decoders = min(num_threads, max(1, len(timeline.key_places)))
    num_buffered = _KEPT_FRAMES * most_decoders + num_threads
    num_converted = 3 * most_decoders
    if num_threads > 1:
        num_converted += FRAMES_AHEAD * most_decoders + 1
    return int(num_pixels * (num_buffered * (1.5 if bits <= 8 else 3) + 3 * num_converted))
