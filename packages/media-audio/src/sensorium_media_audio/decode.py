"""Encoded bytes → a mono clip at the wanted rate.

    bytes → format by signature → cut off? → decoder's blocks → Mixdown
                                                    └ fewer than announced: the other decoder

soundfile decodes what it can. PyAV, an optional dependency, decodes the rest, Ogg that soundfile
leaves off in the middle of, and MP3: soundfile's library for MP3 writes complaints to the process's
standard error, also about files that play well, and has no switch for it. Where PyAV is missing,
soundfile reads MP3. A decode that ends short of what the file announces is never passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from sensorium.errors import MediaError
from sensorium_media_audio.av_decoder import is_installed, open_av
from sensorium_media_audio.containers import check_complete
from sensorium_media_audio.formats import PYAV_FORMATS, Format, read_format
from sensorium_media_audio.mixdown import (
    BLOCK_FRAMES,
    FloatArray,
    Mixdown,
    check_budget,
    check_channels,
    check_rate,
)
from sensorium_media_audio.options import AudioOptions
from sensorium_media_audio.soundfile_decoder import open_soundfile
from sensorium_media_audio.stream import SoundStream

Opener: TypeAlias = Callable[[bytes, Format, int | None], AbstractContextManager[SoundStream]]


def probe_bytes(data: bytes, options: AudioOptions) -> int:
    """What decoding will take in memory, by the header, which is held against the budgets.

    Raises:
        MediaError: no audio in an allowed format, or a header that is damaged.
        LimitError: the header announces more than the budgets allow.
        UnsupportedError: a format whose decoder isn't installed.
    """
    format = read_format(data)
    announced = check_complete(data, format)
    with _openers(format, announced)[0](data, format, announced) as stream:
        check_rate(stream.rate)
        check_channels(stream.channels)
        num_frames = stream.announced
        if num_frames is not None:
            num_frames = max(0, num_frames - stream.slack)
            check_budget(num_frames, num_frames * stream.channels, stream.rate, options)
        return decoded_bytes(num_frames, stream.rate, stream.channels, options)


def decoded_bytes(num_frames: int | None, rate: int, channels: int, options: AudioOptions) -> int:
    """What a clip takes at its peak: blocks, and twice what is kept, as it is put together.

    Args:
        num_frames: samples of one channel; None: as many as the budgets allow.
    """
    seconds = options.max_duration_s if num_frames is None else num_frames / rate
    return 8 * int(seconds * options.sampling_rate) + 4 * BLOCK_FRAMES * (channels + 2)


def decode(data: bytes, options: AudioOptions) -> FloatArray:
    """Decodes: (samples,) float32, mono, at the options' rate.

    Raises:
        MediaError: no audio in an allowed format, or a file that is damaged or cut off.
        LimitError: more than the budgets allow, however little the header announces.
        UnsupportedError: a format whose decoder isn't installed.
    """
    format = read_format(data)
    announced = check_complete(data, format)
    found = ""
    for opener in _openers(format, announced):
        with opener(data, format, announced) as stream:
            mixdown = _mix(stream, options)
            if not _is_short(stream, mixdown):
                return mixdown.finish()
            found = f"{mixdown.num_frames} of the {stream.announced}"
    raise MediaError(
        f"the {format.name} file could be decoded only in part: {found} samples that it announces."
    )


def _openers(format: Format, announced: int | None) -> list[Opener]:
    """The decoders to try, in order."""
    # soundfile can't read a FLAC to its end that doesn't say where that is.
    if format.name in PYAV_FORMATS or (format.name == "FLAC" and announced is None):
        return [open_av]
    if format.name == "MP3" and is_installed():
        return [open_av]
    if format.name == "OGG" and is_installed():
        return [open_soundfile, open_av]
    return [open_soundfile]


def _mix(stream: SoundStream, options: AudioOptions) -> Mixdown:
    mixdown = Mixdown(stream.rate, options)
    for block in stream.blocks:
        mixdown.take(block)
    return mixdown


def _is_short(stream: SoundStream, mixdown: Mixdown) -> bool:
    announced = stream.announced
    return announced is not None and mixdown.num_frames < announced - stream.slack
