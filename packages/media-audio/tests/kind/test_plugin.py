"""The plugin module: light to import, and its hooks return what they promise."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, sensorium_media_audio.plugin as plugin\n"
        "assert plugin.api == 2\n"
        "heavy = {'torch', 'soundfile', 'soxr', 'av'} & set(sys.modules)\n"
        "assert not heavy, f'discovery must stay light: {heavy}'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_it_brings() -> None:
    from sensorium_media_audio import assets, plugin
    from sensorium_media_audio.kind import AudioKind

    assert plugin.sensorium_media_kinds() == [AudioKind]
    assert plugin.sensorium_assets() == {"audio": assets}
    (family,) = plugin.sensorium_model_families()
    (adapter,) = plugin.sensorium_media_adapters()
    assert adapter.kind == "audio"
    assert adapter.architectures == family.architectures == ("UltravoxModel",)


def test_how_long_a_fetch_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's default for the kind, and the variable in place of vLLM's."""
    from sensorium.media.fetch.policy import FetchPolicy
    from sensorium_media_audio.kind import AudioKind

    assert AudioKind.fetch_timeout_s == 10
    monkeypatch.setenv("SENSORIUM_AUDIO_FETCH_TIMEOUT", "2")
    assert FetchPolicy.from_options(kinds=[AudioKind.name]).timeouts_s == {AudioKind.name: 2}
