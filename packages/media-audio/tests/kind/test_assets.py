"""The sounds that ship with the package."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from sensorium.errors import ConfigError
from sensorium_media_audio.assets import NAMES, URL_VARIABLE, AudioAsset


@pytest.mark.parametrize("name", NAMES)
def test_shipped_sounds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, rate = AudioAsset(name).audio_and_sample_rate
    assert rate == 16_000
    assert 3 * rate < len(samples) < 5 * rate
    assert 0.5 < np.abs(samples).max() <= 1
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    file = Path(unquote(urlsplit(AudioAsset(name).url).path))
    assert 5_000 < len(file.read_bytes()) < 100_000
    assert file == AudioAsset(name).get_local_path()


def test_the_rhyme_is_the_rhyme() -> None:
    """Its first notes, by the strongest frequency of each: E5, D5, C5, D5."""
    samples, rate = AudioAsset("mary_had_lamb").audio_and_sample_rate
    beat = int(0.3 * rate)
    for i, half_tones in enumerate((7, 5, 3, 5)):
        spectrum = np.abs(np.fft.rfft(samples[i * beat : (i + 1) * beat]))
        heard = spectrum.argmax() * rate / beat
        assert abs(heard - 440 * 2 ** (half_tones / 12)) < 5


def test_where_they_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:9/files/")
    assert AudioAsset("winning_call").url == "http://127.0.0.1:9/files/winning_call.ogg"


def test_the_engines_name_for_it() -> None:
    from sensorium.assets.audio import AudioAsset as Found

    assert Found is AudioAsset


def test_other_names() -> None:
    with pytest.raises(ConfigError, match="no audio asset 'cat'; there are mary_had_lamb, winning"):
        AudioAsset("cat")
