"""Run one of the project's tasks: `python3 dev.py demo`, `python3 dev.py tests`, ...

It needs nothing but Python 3.11 and its venv module. It uses the virtual environment that is
active, or else creates and uses `.venv` beside this file; there it installs nox, which knows the
tasks (`python3 dev.py --list` shows them) and installs whatever else they need. Everything after
the task's name goes to the task: `python3 dev.py tests -x -k scheduler`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "constraints" / "dev.txt"


def main(arguments: list[str]) -> int:
    """Run `nox -s arguments[0] -- arguments[1:]` in the environment; return its exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036 (a sentence, not a traceback)
        return _fail(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    environment = _active_environment() or ROOT / ".venv"
    python = environment / "bin" / "python"
    if not _succeeds(python, "-c", ""):
        print(f"dev.py: creating {environment}", flush=True)
        if subprocess.call([sys.executable, "-m", "venv", "--clear", str(environment)]) != 0:
            return _fail("no virtual environment was created; is Python's venv module installed?")
    if not (_succeeds(python, "-m", "pip", "--version") or _succeeds(python, "-m", "ensurepip")):
        return _fail(f"{environment} has no pip, and ensurepip did not install it.")
    if not _succeeds(python, "-c", "import nox"):
        install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        if subprocess.call([*install, "-c", str(CONSTRAINTS), "nox"]) != 0:
            return _fail("nox was not installed; pip's message is above.")
    nox = [str(python), "-m", "nox", "-f", str(ROOT / "noxfile.py")]
    task, *rest = arguments
    command = [*nox, "--list"] if task in ("-l", "--list") else [*nox, "-s", task, "--", *rest]
    path = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
    try:
        return subprocess.call(
            command, env={**os.environ, "VIRTUAL_ENV": str(environment), "PATH": path}
        )
    except KeyboardInterrupt:
        return 130


def _active_environment() -> Path | None:
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix)
    named = os.environ.get("VIRTUAL_ENV")
    return Path(named) if named and _succeeds(Path(named) / "bin" / "python", "-c", "") else None


def _succeeds(python: Path, *arguments: str) -> bool:
    if not python.exists():
        return False
    completed = subprocess.run([str(python), *arguments], capture_output=True, check=False)
    return completed.returncode == 0


def _fail(message: str) -> int:
    print(f"dev.py: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
