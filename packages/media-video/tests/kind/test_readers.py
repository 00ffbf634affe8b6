"""One suite for both readers of containers: frames and times are those of an FFmpeg program."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("imageio_ffmpeg")

from video_files import NAMES, Bytes, Reference, clip, reference

from sensorium.errors import MediaError, UnsupportedError
from sensorium_media_video import av_reader, cv_reader
from sensorium_media_video.av_reader import AvClip
from sensorium_media_video.clip import Clip
from sensorium_media_video.encoded import Opener, open_encoded
from sensorium_media_video.facts import ClipFacts
from sensorium_media_video.formats import read_format
from sensorium_media_video.options import VideoOptions

#: Conversions of more than 8 bits round differently between versions of FFmpeg.
DEEP = ("h265_10bit",)


@pytest.fixture(params=["pyav", "opencv"])
def opener(request: pytest.FixtureRequest) -> Opener:
    reader = {"pyav": av_reader, "opencv": cv_reader}[request.param]
    if not reader.is_installed():
        pytest.skip(f"{request.param} isn't installed")
    return av_reader.open_av if reader is av_reader else cv_reader.open_cv


def opened(opener: Opener, name: str, **options: int) -> tuple[Clip, ClipFacts]:
    data = clip(name)
    if "mirrored" in name and opener is cv_reader.open_cv:
        pytest.skip("OpenCV turns and doesn't mirror")
    try:
        found, facts, decoded_bytes = opener(data, read_format(data), VideoOptions(**options))
    except UnsupportedError:
        if name.startswith("av1") and opener is cv_reader.open_cv:
            pytest.skip("OpenCV's wheels decode no AV1")
        raise
    assert decoded_bytes > 3 * facts.height * facts.width
    return found, facts


def assert_same(name: str, found: Sequence[Bytes], expected: Bytes) -> None:
    assert len(found) == len(expected)
    difference = np.abs(np.stack(found).astype(np.int16) - expected)
    if name in DEEP:
        assert difference.mean() < 6
    else:
        assert difference.max() <= 2


@pytest.mark.parametrize("name", NAMES)
def test_all_frames_and_their_times(opener: Opener, name: str) -> None:
    found, facts = opened(opener, name)
    expected = reference(name)
    count = len(expected.frames)
    if name.startswith("cut"):  # whatever comes of a part of a frame
        assert count - 2 <= facts.num_frames <= count
        count = facts.num_frames - 1
        expected = Reference(expected.frames[:count], expected.times[:count])
    else:
        assert facts.num_frames == found.num_frames == count
    assert (facts.height, facts.width) == expected.frames.shape[1:3]
    assert_same(name, list(found.frames(range(count))), expected.frames)
    times = [facts.time_of(index) for index in range(count)]
    if (opener, name) == (cv_reader.open_cv, "h264_avi"):
        return  # its frames come out twice as fast as they are shown
    # An AVI file holds no times; what the program guesses of frames out of order is uneven.
    assert np.abs(np.asarray(times) - expected.times).max() < (0.041 if "avi" in name else 0.0021)
    assert facts.duration >= expected.times[-1]
    assert facts.fps == pytest.approx(facts.num_frames / facts.duration, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_chosen_frames(opener: Opener, name: str, num_threads: int) -> None:
    expected = reference(name).frames
    found, facts = opened(opener, name, decoder_threads=num_threads)
    last = facts.num_frames - (2 if name.startswith("cut") else 1)
    for chosen in ([0], [last], [0, last], range(0, last, 5), [last // 3, last // 3, last // 2]):
        assert_same(name, list(found.frames(chosen)), expected[list(chosen)])


def test_a_clip_is_read_as_often_as_one_likes(opener: Opener) -> None:
    found, _ = opened(opener, "h264")
    first: Iterator[Bytes] = found.frames([3, 30])
    early = next(first)
    assert_same("h264", list(found.frames([3, 30])), reference("h264").frames[[3, 30]])
    assert_same("h264", [early, *first], reference("h264").frames[[3, 30]])


def test_an_uneven_clip_has_times_and_an_even_one_none(opener: Opener) -> None:
    for name in ("h264", "h264_mkv", "late_start", "mjpeg_avi"):
        assert opened(opener, name)[1].times == ()
        assert opened(opener, name)[1].fps == 25.0
    for name in ("uneven_mp4", "uneven_mkv"):
        _, facts = opened(opener, name)
        assert len(facts.times) == facts.num_frames


def num_decoded(name: str, chosen: Sequence[int], num_threads: int) -> int:
    found, _ = opened(av_reader.open_av, name, decoder_threads=num_threads)
    assert isinstance(found, AvClip)
    list(found.frames(chosen))
    return found.num_decoded


@pytest.mark.skipif(not av_reader.is_installed(), reason="PyAV isn't installed")
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_only_what_counts_is_decoded(num_threads: int) -> None:
    """Key frames come every 12: no more than from each of them to its sample, in decoding order."""
    assert num_decoded("h264", [0], num_threads) == 1
    assert num_decoded("h264", [24], num_threads) == 1
    assert num_decoded("h264", [0, 12, 24, 36], num_threads) == 4
    assert num_decoded("h264", [49], num_threads) <= 2
    assert num_decoded("h264", [5, 29], num_threads) <= 2 * (5 + 1 + 3)
    assert num_decoded("mjpeg_avi", [7, 33], num_threads) == 2
    assert num_decoded("h264", range(50), num_threads) == 50


@pytest.mark.skipif(not av_reader.is_installed(), reason="PyAV isn't installed")
@pytest.mark.parametrize("name", ["h264", "h264_avi"])
def test_a_clip_that_is_left_or_closed_leaves_no_thread(name: str) -> None:
    """Several runs, and one: an AVI file doesn't tell where decoding can begin."""
    found, _ = opened(av_reader.open_av, name, decoder_threads=3)
    left = found.frames(range(50))
    assert_same(name, [next(left)], reference(name).frames[:1])
    assert decoder_threads() != []  # so many frames may not wait
    del left
    assert decoder_threads() == []
    read = found.frames(range(50))
    next(read)
    found.close()
    assert decoder_threads() == []
    with pytest.raises(MediaError):
        next(read)


def decoder_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "decoder" in thread.name]


@pytest.mark.skipif(not av_reader.is_installed(), reason="PyAV isn't installed")
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_frame_that_is_missing_ends_a_clip_with_a_sentence(num_threads: int) -> None:
    """The frames before it come; then those behind the damage can't be told."""
    data = clip("h264")
    found, _ = opened(av_reader.open_av, "h264", decoder_threads=num_threads)
    assert isinstance(found, AvClip)
    place = int(found.timeline.places[24])
    blanked = _without_packet(data, place)
    found, _, _ = av_reader.open_av(
        blanked, read_format(blanked), VideoOptions(decoder_threads=num_threads)
    )
    frames = found.frames([0, 12, 24, 36])
    assert_same("h264", [next(frames), next(frames)], reference("h264").frames[[0, 12]])
    with pytest.raises(MediaError, match="damaged"):
        next(frames)
    assert decoder_threads() == []


def _without_packet(data: bytes, place: int) -> bytes:
    """The file with zeros in place of a packet's bytes."""
    import av

    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        start, size = packets[place].pos, packets[place].size
    assert start is not None
    return data[:start] + bytes(size) + data[start + size :]


@pytest.mark.skipif(not av_reader.is_installed(), reason="PyAV isn't installed")
def test_a_reader_that_seeks_by_number_would_be_found() -> None:
    """The suite tells a wrong frame: a clip's frames differ from their neighbours."""
    frames = reference("uneven_mp4").frames.astype(np.int16)
    differences = np.abs(np.diff(frames, axis=0)).max(axis=(1, 2, 3))
    assert differences.min() > 2


@pytest.mark.parametrize(
    ("module", "reader", "name"), [("av", "pyav", "PyAV"), ("cv2", "opencv", "OpenCV")]
)
def test_a_reader_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, reader: str, name: str
) -> None:
    data = clip("h264")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=f"{name}, which isn't installed: pip install"):
        open_encoded(data, VideoOptions(reader=reader))


def test_opencv_counts_a_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probing and loading are two calls; counting decodes every frame."""
    if not cv_reader.is_installed():
        pytest.skip("opencv isn't installed")
    counted: list[ClipFacts] = []
    count = cv_reader._counted

    def watched(*given: Any) -> ClipFacts:
        counted.append(count(*given))
        return counted[-1]

    monkeypatch.setattr(cv_reader, "_counted", watched)
    monkeypatch.setattr(cv_reader, "_COUNTED", cv_reader._Latest(2))
    for name in ("h264_refresh", "h264_avi") * 2:
        data = clip(name)
        facts = cv_reader.open_cv(data, read_format(data), VideoOptions())[1]
        assert facts in counted
    assert len(counted) == 2
    cv_reader.open_cv(data, read_format(data), VideoOptions(max_frames=3_000))
    assert len(counted) == 3, "limits may differ"
