"""Every form in which a clip may be given, and what it is read as."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audio_files import encode, melody

from sensorium.errors import ConfigError, LimitError, MediaError
from sensorium.media.process import resolve_all
from sensorium.testing.media import sources_of
from sensorium.types import MediaItem
from sensorium_media_audio.kind import AudioKind

KIND = AudioKind({})
CLIP = melody(0.3)


def load(value: Any, **options: Any) -> np.ndarray:
    kind = AudioKind(options)
    sources = sources_of(kind, value)
    kind.probe(sources)
    loaded = kind.load(sources)
    assert loaded.value.dtype == np.float32
    assert loaded.value.flags.c_contiguous
    assert loaded.value.flags.writeable
    assert loaded.shape.facts["length"] == len(loaded.value)
    samples: np.ndarray = loaded.value
    return samples


@pytest.mark.parametrize(
    "value",
    [
        CLIP,
        torch.from_numpy(CLIP),
        CLIP.tolist(),
        (CLIP, 16_000),
        (CLIP, 16_000.0),
        (torch.from_numpy(CLIP), np.int64(16_000)),
        (CLIP.tolist(), 16_000),
        CLIP.astype(np.float64),
        CLIP[:, None],
        CLIP[None],
        np.stack([CLIP, CLIP]),
        np.stack([CLIP, CLIP], 1),
        (torch.from_numpy(np.stack([CLIP, CLIP])), 16_000),
        torch.from_numpy(CLIP).requires_grad_(),
        np.repeat(CLIP, 2)[::2],
    ],
    ids=str,
)
def test_a_clip_is_the_same_in_every_form(value: Any) -> None:
    np.testing.assert_allclose(load(value), CLIP, atol=1e-7)
    np.testing.assert_allclose(load([value] if value is not None else value), CLIP, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32])
def test_integers_are_scaled_by_their_type(dtype: type) -> None:
    top = 2.0 ** (8 * np.dtype(dtype).itemsize - 1)
    numbers = np.clip(np.round(CLIP * top), -top, top - 1) + (128 if dtype is np.uint8 else 0)
    np.testing.assert_allclose(load(numbers.astype(dtype)), CLIP, atol=0.6 / top)


def test_halves_are_taken() -> None:
    halves = torch.from_numpy(CLIP).to(torch.bfloat16)
    np.testing.assert_array_equal(load(halves), halves.float().numpy())


def test_the_mean_of_channels_does_not_clip() -> None:
    loud = np.ones((2, 1000), dtype=np.int16) * np.int16(32767)
    assert load(loud).max() <= 1
    left = np.stack([CLIP, np.zeros_like(CLIP)])
    np.testing.assert_allclose(load(left), CLIP / 2, atol=1e-7)


def test_other_rates_are_resampled() -> None:
    fine = melody(1.0, 48_000)
    samples = load((fine, 48_000))
    assert len(samples) == 16_000
    np.testing.assert_allclose(samples.std(), fine.std(), rtol=0.01)
    assert len(load((fine, 48_000), sampling_rate=24_000)) == 24_000


def test_a_resampled_tone_is_that_tone() -> None:
    def tone(rate: int, seconds: float) -> np.ndarray:
        return np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate).astype(np.float32)

    for rate in (8_000, 11_025, 44_100, 48_000, 192_000):
        samples = load((tone(rate, 3.0), rate))  # more than one block at 44,100 and above
        expected = tone(16_000, 3.0)
        assert abs(len(samples) - len(expected)) <= 1
        inside = slice(2000, 45_000)
        assert np.abs(samples[inside] - expected[inside]).max() < 2e-3


def test_one_sample_is_a_clip() -> None:
    assert load(np.float32([0.5])).tolist() == [0.5]
    assert len(load((np.float32([0.5]), 192_000))) >= 1


def test_several_items() -> None:
    file = encode(CLIP, 16_000, "WAV", "PCM_16")
    items = KIND.split([CLIP, None, (CLIP, 8_000), CLIP.tolist(), file])
    assert [item.has_data for item in items] == [True, False, True, True, True]
    assert [item.index for item in items] == [0, 1, 2, 3, 4]
    assert KIND.split([]) == []
    assert KIND.split([None])[0] == MediaItem("audio", 0)


def test_files_are_the_same_by_every_way(tmp_path: Path) -> None:
    data = encode(CLIP, 16_000, "WAV", "FLOAT")
    file = tmp_path / "clip.of_any_name"
    file.write_bytes(data)
    text = base64.b64encode(data).decode()
    for value in (data, bytearray(data), file, f"data:audio/wav;base64,{text}"):
        np.testing.assert_array_equal(load(value), CLIP)
    for part in (
        KIND.parse_part("audio_url", {"url": f"data:audio/mp3;base64,{text}"}),
        KIND.parse_part("audio_url", f"data:;base64,{text}"),
        KIND.parse_part("input_audio", {"data": text, "format": "wav"}),
        KIND.parse_part("input_audio", {"data": text, "format": "mp3"}),  # a claim, no more
        KIND.parse_part("input_audio", {"data": text}),
    ):
        np.testing.assert_array_equal(KIND.load(resolve_all(KIND, part.sources)).value, CLIP)


def test_parts_without_data() -> None:
    for part_type in KIND.part_types:
        assert not KIND.parse_part(part_type, None).has_data
    assert not KIND.parse_part("input_audio", {"data": None, "format": "wav"}).has_data
    assert not KIND.parse_part("audio_url", {"url": None}).has_data


@pytest.mark.parametrize(
    ("part_type", "value", "match"),
    [
        ("input_audio", "text", "must be a mapping with data and format"),
        ("input_audio", {"data": b"x"}, "must be base64"),
        ("input_audio", {"data": "", "format": 3}, "format is a int"),
        ("input_audio", {"data": "", "url": ""}, "'url'; allowed are data and format"),
        ("audio_url", {"url": 3}, "must be a URL"),
        ("audio_url", {"url": "data:,", "detail": "auto"}, "'detail'; allowed are url"),
        ("audio_embeds", 3, "must hold a tensor"),
        ("audio_embeds", {"audio_embeds": torch.ones(2, 3, 4)}, "holds 2 clips"),
    ],
)
def test_wrong_parts(part_type: str, value: Any, match: str) -> None:
    with pytest.raises(MediaError, match=match):
        KIND.parse_part(part_type, value)


def test_embeddings() -> None:
    rows = torch.ones(3, 8)

    def shapes(value: Any) -> list[Any]:
        embeds = [item.embeds for item in KIND.split(value)]
        assert all(embed is not None for embed in embeds)
        return [tuple(embed.rows.shape) for embed in embeds if embed is not None]

    assert shapes(torch.ones(2, 3, 8)) == [(3, 8)] * 2
    assert shapes([rows, rows[:2]]) == [(3, 8), (2, 8)]
    assert shapes({"audio_embeds": rows}) == [(3, 8)]
    assert shapes({"audio_embeds": rows.numpy()[None]}) == [(3, 8)]
    assert shapes([{"audio_embeds": rows}]) == [(3, 8)]
    assert shapes({"audio_embeds": [rows, rows]}) == [(3, 8)] * 2
    mixed = KIND.split([rows, CLIP, None])
    assert [item.embeds is not None for item in mixed] == [True, False, False]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.float32([]), "empty"),
        (([], 16_000), "empty"),
        (np.zeros((0, 2), np.float32), "empty"),
        (np.float32([0, np.nan]), "no numbers, or infinite"),
        (np.float32([0, -np.inf]), "no numbers, or infinite"),
        (np.float64([1e300]), "no numbers, or infinite"),
        ([0.0, float("nan")], "no numbers, or infinite"),
        (np.float32([0, 12_000]), "up to 12000; full scale is 1"),
        ([1, 2, 3], "integers has no known scale"),
        (np.int64([1, 2]), "array of int64"),
        (np.array([True]), "array of bool"),
        (np.complex64([1]), "array of complex64"),
        (np.array(["a"]), "array of <U1"),
        ([0.5, "a"], "has a str in it"),
        ([0.5, [0.5]], "has a list in it"),
        ([10**400, 0.5], "too large"),
        (np.zeros((20, 20), np.float32), "doesn't tell which axis"),
        (np.zeros((20, 30), np.float32), "no axis of channels"),
        (np.zeros((), np.float32), "shape \\(\\)"),
        (np.zeros((2, 2, 2), np.int16), "shape \\(2, 2, 2\\)"),
        ((CLIP, 0), "sampling rate is 0"),
        ((CLIP, -16_000), "sampling rate is -16000"),
        ((CLIP, 16_000.5), "must be a whole number"),
        ((CLIP, float("inf")), "must be a whole number"),
        ("clip.wav", "must be a URL"),
        (["clip.wav", 16_000], "must be a URL"),
        ([CLIP, 16_000], "it is a int"),
        ({"array": CLIP}, "a mapping with 'array'"),
        ({"audio_embeds": 3}, "audio_embeds is a int"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("error")
def test_what_is_refused(value: Any, match: str) -> None:
    with pytest.raises(MediaError, match=match):
        load(value)


def test_a_wrong_entry_is_named() -> None:
    with pytest.raises(MediaError, match=r"audio 1: it is a object; allowed are \(samples"):
        KIND.split([CLIP, object()])


def test_budgets_of_arrays() -> None:
    with pytest.raises(LimitError, match=r"longer than 0\.2 s"):
        load(CLIP, max_duration_s=0.2)
    with pytest.raises(LimitError, match=r"longer than 0\.2 s"):
        load(CLIP.tolist(), max_duration_s=0.2)
    with pytest.raises(LimitError, match="more than 5000 samples"):
        load(np.stack([CLIP, CLIP]), max_samples=5000)
    assert len(load(CLIP, max_duration_s=0.3, max_samples=4800)) == 4800


def test_options() -> None:
    assert AudioKind({}).options_key() == {"sampling_rate": 16_000, "max_duration_s": 600.0}
    for options, match in (
        ({"fps": 3}, "'fps'; allowed are max_duration_s"),
        ({"max_duration_s": 0}, "max_duration_s is 0"),
        ({"max_duration_s": True}, "max_duration_s is True"),
        ({"max_duration_s": float("nan")}, "max_duration_s is nan"),
        ({"max_duration_s": 10_000}, "at most 7200"),
        ({"max_samples": 0}, "max_samples is 0"),
        ({"sampling_rate": 16_000.5}, "sampling_rate is 16000.5"),
        ({"sampling_rate": 10}, "from 1000 to 384000"),
    ):
        with pytest.raises(ConfigError, match=match):
            AudioKind(options)


def test_silence_of_the_wanted_length() -> None:
    shape = KIND.limited(KIND.load(sources_of(KIND, CLIP)).shape, {"length": 100})
    assert len(KIND.blank(shape).value) == 100
