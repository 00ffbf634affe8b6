"""GIF, animated WebP and APNG, decoded by Pillow.

Their frames are laid over one another, so all frames before the last wanted one are decoded; only
those that are wanted are converted. Transparent pixels are white.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from sensorium.errors import MediaError
from sensorium_media_image.headers import Header, read_header
from sensorium_media_image.pictures import open_encoded as open_picture
from sensorium_media_image.pictures import to_rgb
from sensorium_media_video.clip import Clip, Frame
from sensorium_media_video.delays import Delays, read_delays
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.formats import Format, damaged
from sensorium_media_video.frames import check_duration, check_frame_size
from sensorium_media_video.options import VideoOptions
from sensorium_media_video.timeline import EVEN_S

BACKGROUND = (255, 255, 255)
#: Pillow's buffers of a canvas (a frame, what is below it, what it becomes) and the result.
BYTES_PER_PIXEL = 20


def open_animation(
    data: bytes, format: Format, options: VideoOptions
) -> tuple[Clip, ClipFacts, int]:
    """Reads sizes and delays; decodes nothing.

    Returns:
        The clip, its facts, and what decoding takes in memory.

    Raises:
        MediaError: the file is damaged.
        LimitError: more frames, or larger ones, than are allowed.
    """
    header = read_header(data)
    check_frame_size(header.height, header.width, options)
    delays = read_delays(data, format, most=options.max_frames)
    seconds = [delay / 1000 for delay in delays.milliseconds]
    duration, count = sum(seconds), len(seconds)
    check_duration(duration, options)
    fps = count / duration
    times = tuple(accumulate(seconds[:-1], initial=0.0))
    if all(abs(time - index / fps) <= EVEN_S for index, time in enumerate(times)):
        times = ()
    clip = AnimationClip(data, format, header, delays)
    facts = ClipFacts(count, header.height, header.width, fps=fps, duration=duration, times=times)
    return clip, facts, BYTES_PER_PIXEL * header.height * header.width


class AnimationClip(Clip):
    """A file of pictures that are shown one after another."""

    def __init__(self, data: bytes, format: Format, header: Header, delays: Delays) -> None:
        super().__init__(len(delays.milliseconds))
        self._data, self._format, self._header = data, format, header
        self._first = delays.first

    def read(self, indices: tuple[int, ...]) -> Iterator[Frame]:
        """Decodes forward from the first frame."""
        picture = open_picture(self._data, self._header)
        try:
            frame: Frame | None = None
            place = -1
            for index in indices:
                if index != place or frame is None:
                    picture.seek(index + self._first)
                    picture.load()
                    frame, place = to_rgb(picture, 1, BACKGROUND), index
                if frame.shape[:2] != (self._header.height, self._header.width):
                    raise damaged(self._format)
                yield frame
        except (MediaError, GeneratorExit):
            raise
        except Exception:  # Pillow raises SyntaxError, OSError, struct.error, EOFError and others
            raise damaged(self._format) from None
        finally:
            picture.close()
