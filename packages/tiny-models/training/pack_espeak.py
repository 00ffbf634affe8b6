"""Packs this machine's espeak-ng, the library and its data, into a folder for another one.

    python pack_espeak.py FOLDER        (then ESPEAK_FOLDER=FOLDER there)

For Linux on x86-64 with a C library as new as this machine's. The folder is for training alone and
is shipped with nothing. The library that would play sound, and its many dependencies, are replaced
by one that does nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

#: What libespeak-ng takes from libpcaudio.
PLAYBACK = (
    "audio_object_close", "audio_object_destroy", "audio_object_drain", "audio_object_flush",
    "audio_object_open", "audio_object_strerror", "audio_object_write",
    "create_audio_device_object",
)  # fmt: skip


def main(target: str) -> None:
    """Copies; the languages that training doesn't speak stay behind."""
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    program = shutil.which("espeak-ng")
    if program is None:
        raise SystemExit("espeak-ng isn't installed: apt-get install espeak-ng")
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    found = dict(line.strip().split(" => ") for line in listed.splitlines() if " => " in line)
    for name in ("libespeak-ng.so.1", "libsonic.so.0"):
        shutil.copy(found[name].split()[0], folder / name)
    nothing = "\n".join(f"void *{name}(void) {{ return 0; }}" for name in PLAYBACK)
    name = "libpcaudio.so.0"
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-x", "c", "-", "-o", folder / name],
        input=nothing, text=True, check=True,
    )  # fmt: skip
    told = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    data = Path(told.split("Data at:")[1].strip())
    shutil.copytree(
        data,
        folder / "espeak-ng-data",
        dirs_exist_ok=True,
        ignore=lambda _, names: [
            name for name in names if name.endswith("_dict") and name != "en_dict"
        ],
    )


if __name__ == "__main__":
    main(sys.argv[1])
