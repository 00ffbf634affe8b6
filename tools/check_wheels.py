"""Install each wheel of a folder into an empty environment of its own and try it there.

    python tools/check_wheels.py dist

Each wheel is installed (with all its extras) by pip with the dependencies that it declares: our
other distributions from the same folder, torch shared with the environment running this, the rest
from the package index. Then every module in it is imported, `pip check` must be content, and
`sensorium plugins` must run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
from email import message_from_bytes
from pathlib import Path

from bare_environment import create

ROOT = Path(__file__).resolve().parent.parent


def check(wheel: Path, constraints: list[Path]) -> None:
    """Raise CalledProcessError where one of the steps fails.

    Our other distributions are found beside the wheel; pip doesn't apply a constraint that is a
    file to a requirement with an extra, so constraints name their versions.
    """
    name, extras, modules = _read(wheel)
    with tempfile.TemporaryDirectory() as folder:
        python = create(Path(folder) / "environment")
        install: list[str | Path] = [python, "-m", "pip", "install", "-qq"]
        install += ["--disable-pip-version-check", "--find-links", wheel.parent]
        for file in constraints:
            install += ["-c", file]
        _run(*install, f"{name}{extras} @ {wheel.as_uri()}")
        _run(python, "-m", "pip", "check")
        _run(python, "-c", "\n".join(f"import {module}" for module in modules), cwd=folder)
        _run(python.with_name("sensorium"), "plugins", cwd=folder)


def _read(wheel: Path) -> tuple[str, str, list[str]]:
    """Return the distribution's name, its extras in brackets, and the modules it holds."""
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        metadata_file = next(file for file in files if file.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(metadata_file))
    extras = metadata.get_all("Provides-Extra") or []
    sources = [file.removesuffix(".py") for file in files if file.endswith(".py")]
    modules = [file.removesuffix("/__init__").replace("/", ".") for file in sources]
    modules = sorted(module for module in modules if not module.endswith(".__main__"))
    if not modules:
        sys.exit(f"{wheel.name} holds no module")
    return metadata["Name"], f"[{','.join(extras)}]" if extras else "", modules


def _run(*command: str | Path, cwd: str | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=cwd)


def main(dist: Path) -> None:
    wheels = sorted(dist.resolve().glob("*.whl"))
    if not wheels:
        sys.exit(f"{dist} holds no wheel")
    with tempfile.TemporaryDirectory() as folder:
        # Our own distributions come from `dist`, in these versions.
        ours = Path(folder) / "ours.txt"
        versions = [wheel.name.split("-")[:2] for wheel in wheels]
        ours.write_text("".join(f"{name}=={version}\n" for name, version in versions))
        for wheel in wheels:
            start_s = time.monotonic()
            print(f"-- {wheel.name}", flush=True)
            try:
                check(wheel, [ROOT / "constraints" / "dev.txt", ours])
            except subprocess.CalledProcessError:
                sys.exit(f"{wheel.name} does not work when it is installed alone (see above)")
            print(f"-- {wheel.name}: good, {time.monotonic() - start_s:.0f} s", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
