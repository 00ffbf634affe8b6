"""The plugin module: light to import, and its hooks return what they promise."""

from __future__ import annotations

import subprocess
import sys


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
