"""Row 16 (CVE-2026-22778): JPEG 2000 in a video reached a vulnerable decoder; addresses leaked."""

from __future__ import annotations

import pytest

pytest.importorskip("imageio_ffmpeg")
pytest.importorskip("av")

import av
from video_files import clip, encoded, source

from sensorium.errors import MediaError, RequestError
from sensorium.types import BytesSource
from sensorium_media_video import av_reader, cv_reader
from sensorium_media_video.formats import FORMATS, read_format
from sensorium_media_video.kind import VideoKind

SHORT = source(0.2)
OTHERS = {
    "jpeg2000": ("mov", "-c:v", "jpeg2000"),
    "prores": ("mov", "-c:v", "prores"),
    "ffv1": ("mkv", "-c:v", "ffv1"),
    "huffyuv": ("avi", "-c:v", "huffyuv"),
    "png": ("mov", "-c:v", "png"),
    "theora": ("mkv", "-c:v", "libtheora"),
}


@pytest.mark.parametrize("reader", ["pyav", "opencv"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_codec_that_is_not_on_the_list(name: str, reader: str) -> None:
    if reader == "opencv" and not cv_reader.is_installed():
        pytest.skip("OpenCV isn't installed")
    data = encoded(*OTHERS[name], given=SHORT)
    kind = VideoKind({"reader": reader})
    for refuse in (kind.probe, kind.load):
        with pytest.raises(RequestError, match=r"isn't decoded, or damaged; decoded are H\.264"):
            refuse([BytesSource(data)])


def test_no_decoder_off_the_list_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg opens decoders while it looks for streams; it is told which it may."""
    given: list[dict[str, str]] = []
    original = av.open

    def spied(*arguments: object, **options: object) -> object:
        given.append(options["options"])  # type: ignore[arg-type]
        return original(*arguments, **options)

    monkeypatch.setattr(av, "open", spied)
    av_reader.open_av(clip("h264"), read_format(clip("h264")), VideoKind({})._options)
    allowed = given[0]["codec_whitelist"].split(",")
    assert "h264" in allowed
    assert not {"jpeg2000", "libopenjpeg", "png", "exr", "magicyuv"} & set(allowed)


@pytest.mark.parametrize(
    "arguments",
    [("ts", "-c:v", "mpeg2video"), ("flv", "-c:v", "flv"), ("nut", "-c:v", "mpeg4")],
    ids=lambda arguments: arguments[0],
)
def test_a_container_that_is_not_on_the_list(arguments: tuple[str, ...]) -> None:
    data = encoded(*arguments, given=SHORT)
    with pytest.raises(MediaError, match="no video in an allowed format") as caught:
        VideoKind({}).probe([BytesSource(data)])
    assert all(name in str(caught.value) for name in FORMATS)


def test_a_playlist_opens_nothing() -> None:
    """Formats that name other files or addresses are on no list."""
    for text in (
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD></MPD>",
    ):
        with pytest.raises(MediaError, match="no video in an allowed format"):
            VideoKind({}).probe([BytesSource(text)])


@pytest.mark.parametrize("name", ["h264", "h264_mov", "vp9", "h265"])
def test_errors_tell_no_addresses(name: str) -> None:
    """A file of which a quarter is zeros and the end is missing."""
    data = bytearray(clip(name))
    quarter = len(data) // 4
    data[quarter : 2 * quarter] = bytes(quarter)
    with pytest.raises(MediaError, match=r"file is damaged or cut off\.$") as caught:
        list(VideoKind({}).load([BytesSource(bytes(data[: 3 * quarter]))]).value.pieces())
    assert "0x" not in str(caught.value)
    assert "@" not in str(caught.value)
