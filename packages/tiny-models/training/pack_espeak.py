"""Packs this machine's espeak-ng, its libraries and its data into a folder for another one.

    python pack_espeak.py FOLDER        (then ESPEAK_FOLDER=FOLDER there)

For Linux on x86-64. The folder is for training alone and is shipped with nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

LOADER = Path("/lib64/ld-linux-x86-64.so.2")


def main(target: str) -> None:
    """Copies; the languages that training doesn't speak stay behind."""
    folder = Path(target)
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    program = shutil.which("espeak-ng")
    if program is None:
        raise SystemExit("espeak-ng isn't installed: apt-get install espeak-ng")
    shutil.copy(program, folder / "espeak-ng")
    shutil.copy(LOADER, folder / LOADER.name)
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        _, arrow, found = line.partition("=> ")
        if arrow:
            shutil.copy(found.split()[0], folder / "lib")
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
