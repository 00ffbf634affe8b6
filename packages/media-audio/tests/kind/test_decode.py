"""Every format on the list, what isn't on it, and files that end too early."""

from __future__ import annotations

import builtins
import io
import struct
from typing import Any

import numpy as np
import pytest
import soundfile
from audio_files import AV_FILES, LOSSY, SOUNDFILE_FILES, encode, encode_av, melody

from sensorium.errors import LimitError, MediaError, UnsupportedError
from sensorium.types import BytesSource
from sensorium_media_audio import decode as decoding
from sensorium_media_audio.decode import decode
from sensorium_media_audio.kind import AudioKind
from sensorium_media_audio.options import AudioOptions

CLIP = melody(1.3)
WIDE = AudioOptions()


def load(data: bytes, **options: Any) -> np.ndarray:
    kind = AudioKind(options)
    probe, loaded = kind.probe([BytesSource(data)]), kind.load([BytesSource(data)])
    samples: np.ndarray = loaded.value
    assert probe.decoded_bytes >= samples.nbytes
    return samples


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """The best one over shifts: codecs delay."""
    size = min(len(one), len(other))
    spectra = np.fft.rfft(one[:size], 2 * size) * np.conj(np.fft.rfft(other[:size], 2 * size))
    best = np.fft.irfft(spectra).max()
    return float(best / np.sqrt((one[:size] ** 2).sum() * (other[:size] ** 2).sum()))


@pytest.mark.parametrize(("format", "codec"), SOUNDFILE_FILES)
def test_what_soundfile_reads(format: str, codec: str) -> None:
    samples = load(encode(CLIP, 16_000, format, codec))
    assert len(samples) == len(CLIP)
    if codec in LOSSY:
        assert correlation(samples, CLIP) > 0.95
    else:
        bits = 8 if codec == "PCM_U8" else 16
        np.testing.assert_allclose(samples, CLIP, atol=2.0 ** (1 - bits))


@pytest.mark.parametrize(("container", "codec"), AV_FILES)
def test_what_pyav_reads(container: str, codec: str) -> None:
    pytest.importorskip("av")
    rate = 48_000 if codec == "libopus" else 16_000
    samples = load(encode_av(melody(1.3, rate), rate, container, codec))
    assert 0 <= len(samples) - len(CLIP) <= 4096  # AAC has frames of 1024, and a delay
    assert correlation(samples, CLIP) > 0.9
    if codec not in LOSSY:
        np.testing.assert_allclose(samples[: len(CLIP)], CLIP, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000])
def test_stereo_files_of_other_rates(rate: int) -> None:
    left, right = melody(2, rate), melody(2, rate, seed=1)
    data = encode(np.stack([left, right], 1), rate, "WAV", "FLOAT")
    samples = load(data)
    assert abs(len(samples) - 32_000) <= 1
    array = AudioKind({}).split([(np.stack([left, right]), rate)])[0]
    np.testing.assert_allclose(samples, AudioKind({}).load(array.sources).value, atol=1e-6)


@pytest.mark.parametrize(("format", "codec"), SOUNDFILE_FILES)
def test_cut_files(format: str, codec: str) -> None:
    data = encode(CLIP, 16_000, format, codec)
    _refused_wherever_cut(data)


@pytest.mark.parametrize(("container", "codec"), AV_FILES)
def test_cut_files_of_pyav(container: str, codec: str) -> None:
    pytest.importorskip("av")
    rate = 48_000 if codec == "libopus" else 16_000
    _refused_wherever_cut(encode_av(melody(1.3, rate), rate, container, codec))


def _refused_wherever_cut(data: bytes) -> None:
    for share in (0.02, 0.1, 0.31, 0.52, 0.73, 0.94):
        with pytest.raises(MediaError):
            load(data[: int(share * len(data))])


def test_a_recording_that_was_written_to_a_pipe_has_no_length() -> None:
    data = bytearray(encode(CLIP, 16_000, "WAV", "PCM_16"))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert len(load(bytes(data))) == len(CLIP)


def test_an_id3_tag_is_passed_over() -> None:
    mp3 = encode(CLIP, 16_000, "MP3", "MPEG_LAYER_III")
    flac = encode(CLIP, 16_000, "FLAC", "PCM_16")
    tag = b"ID3\x04\0\0\0\0\0\x10" + bytes(16)
    for data in (mp3, flac):
        np.testing.assert_array_equal(load(tag + data), load(data))
    assert len(load(mp3 + b"TAG" + bytes(125))) == len(CLIP)


def test_damaged_mp3s_write_nothing_to_standard_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that is lost is passed over; the library of the other decoder would say so aloud."""
    pytest.importorskip("av")
    data = bytearray(encode(CLIP, 16_000, "MP3", "MPEG_LAYER_III"))
    del data[2000:2010]
    samples = load(bytes(data))
    assert 0 < len(CLIP) - len(samples) <= 1600
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(decoding, "is_installed", lambda: False)
    load(bytes(data))
    assert "resync" in capfd.readouterr().err, (
        "it is silent now: PyAV isn't needed for MP3 any more"
    )


def test_both_decoders_read_mp3_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    for rate, channels in ((16_000, 1), (44_100, 2)):
        clip = np.stack([melody(2, rate, seed=seed) for seed in range(channels)], 1)
        data = encode(clip, rate, "MP3", "MPEG_LAYER_III")
        ours = load(data)
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "is_installed", lambda: False)
            np.testing.assert_allclose(load(data), ours, atol=1e-5)


def chained() -> bytes:
    """Two streams behind one another, which Ogg allows; libsndfile reads the first one alone."""
    return encode(CLIP, 16_000, "OGG", "VORBIS") + encode(melody(2), 16_000, "OGG", "VORBIS")


def test_where_one_decoder_leaves_off_the_other_one_goes_on() -> None:
    pytest.importorskip("av")
    with soundfile.SoundFile(io.BytesIO(chained())) as file:
        assert file.frames == len(CLIP), "it reads them all now: this test needs another case"
    samples = load(chained())
    assert abs(len(samples) - len(CLIP) - 32_000) < 1600
    assert correlation(samples[: len(CLIP)], CLIP) > 0.95


def test_where_there_is_no_other_decoder_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "is_installed", lambda: False)
    with pytest.raises(MediaError, match=r"only in part: 20800 of the 52800 samples"):
        load(chained())


def test_formats_that_need_pyav_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    data = encode_av(CLIP, 16_000, "ipod", "aac")
    real = builtins.__import__

    def without_av(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(UnsupportedError, match=r"M4A files .* 'sensorium-media-audio\[av\]'"):
        load(data)


@pytest.mark.parametrize(
    ("format", "codec"),
    [
        ("WAV", "IMA_ADPCM"),
        ("WAV", "GSM610"),
        ("VOC", "PCM_16"),
        ("PAF", "PCM_16"),
    ],
)
def test_only_what_is_on_the_list(format: str, codec: str) -> None:
    data = encode(CLIP, 16_000, format, codec)
    with pytest.raises(MediaError):
        load(data)


def test_a_video_is_no_clip() -> None:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(MediaError, match="M4A file is damaged"):
        load(file.getvalue())


def test_infinite_samples_in_a_file() -> None:
    broken = CLIP.copy()
    broken[1000] = np.nan
    with pytest.raises(MediaError, match="no numbers, or infinite"):
        load(encode(broken, 16_000, "WAV", "FLOAT"))


def test_a_file_without_samples() -> None:
    with pytest.raises(MediaError):
        load(encode(CLIP[:0], 16_000, "FLAC", "PCM_16"))


def test_headers_may_reject_and_never_admit() -> None:
    data = encode(CLIP, 16_000, "FLAC", "PCM_16")
    with pytest.raises(LimitError, match="longer than 1 s"):
        AudioKind({"max_duration_s": 1}).probe([BytesSource(data)])
    pytest.importorskip("av")
    silent = bytearray(data)
    (packed,) = struct.unpack_from(">Q", silent, 18)
    struct.pack_into(">Q", silent, 18, packed & ~(2**36 - 1))  # STREAMINFO: a length left open
    assert len(load(bytes(silent))) == len(CLIP)
    for options in ({"max_duration_s": 1}, {"max_samples": 8000}):
        kind = AudioKind(options)
        kind.probe([BytesSource(bytes(silent))])
        with pytest.raises(LimitError):
            kind.load([BytesSource(bytes(silent))])


def test_a_lossless_decode_is_exact_in_length() -> None:
    assert len(decode(encode(CLIP, 16_000, "FLAC", "PCM_16"), WIDE)) == len(CLIP)
