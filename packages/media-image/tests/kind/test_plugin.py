"""The plugin module: light to import, and its hooks return what they promise."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_importing_it_imports_neither_torch_nor_pillow() -> None:
    code = (
        "import sys, sensorium_media_image.plugin as plugin\n"
        "assert plugin.api == 2\n"
        "assert not {'torch', 'PIL'} & set(sys.modules), 'discovery must stay light'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kind_and_assets() -> None:
    from sensorium_media_image import assets, plugin
    from sensorium_media_image.kind import ImageKind

    assert plugin.sensorium_media_kinds() == [ImageKind]
    assert plugin.sensorium_assets() == {"image": assets}


def test_every_adapter_takes_images_of_a_family_here() -> None:
    from sensorium_media_image import plugin

    served = {name for f in plugin.sensorium_model_families() for name in f.architectures}
    adapters = plugin.sensorium_media_adapters()
    assert adapters
    for adapter in adapters:
        assert adapter.kind == "image"
        assert set(adapter.architectures) <= served


def test_how_long_a_fetch_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's default for the kind, and the variable in place of vLLM's."""
    from sensorium.media.fetch.policy import FetchPolicy
    from sensorium_media_image.kind import ImageKind

    assert ImageKind.fetch_timeout_s == 5
    monkeypatch.setenv("SENSORIUM_IMAGE_FETCH_TIMEOUT", "2")
    assert FetchPolicy.from_options(kinds=[ImageKind.name]).timeouts_s == {ImageKind.name: 2}
