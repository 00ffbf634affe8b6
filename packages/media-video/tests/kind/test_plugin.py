"""The plugin module: light to import, and its hooks return what they promise."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, sensorium_media_video.plugin as plugin\n"
        "assert plugin.api == 2\n"
        "heavy = {'torch', 'PIL', 'av', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, f'discovery must stay light: {heavy}'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_it_brings() -> None:
    from sensorium_media_video import assets, plugin
    from sensorium_media_video.kind import VideoKind

    assert plugin.sensorium_media_kinds() == [VideoKind]
    assert plugin.sensorium_assets() == {"video": assets}
    assert all(adapter.kind == "video" for adapter in plugin.sensorium_media_adapters())


def test_how_long_a_fetch_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's default for the kind, and the variable in place of vLLM's."""
    from sensorium.media.fetch.policy import FetchPolicy
    from sensorium_media_video.kind import VideoKind

    assert VideoKind.fetch_timeout_s == 30
    monkeypatch.setenv("SENSORIUM_VIDEO_FETCH_TIMEOUT", "7")
    assert FetchPolicy.from_options(kinds=[VideoKind.name]).timeouts_s == {VideoKind.name: 7}
