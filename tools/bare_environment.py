"""Create an empty virtual environment that shares the torch of the environment running this.

    python tools/bare_environment.py FOLDER

The wheels of this project are tried in such environments. torch is far too large to install into
each of them, so it and the distributions that it requires are linked in: their files as symbolic
links, their metadata as copies without `RECORD`. pip counts them as installed, and refuses to
change them. Everything else is to be installed there in the ordinary way.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def create(folder: Path) -> Path:
    """Create the environment and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    python = folder / "bin" / "python"
    source = Path(sysconfig.get_path("purelib"))
    site = folder / source.relative_to(sys.prefix)
    for shared in _with_requirements("torch"):
        has_own = any(site.glob(f"{shared.name.replace('-', '_')}-*.dist-info"))
        if not has_own:
            _link(shared, source, site)
    return python


def _with_requirements(name: str) -> list[Distribution]:
    """Return the distribution called `name` and all that it needs, each once."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        shared = distribution(waiting.pop())
        if shared.name in found:
            continue
        found[shared.name] = shared
        for requirement in map(Requirement, shared.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return list(found.values())


def _link(shared: Distribution, source: Path, site: Path) -> None:
    tops = {file.parts[0] for file in shared.files or []} - {"..", "__pycache__"}
    for top in sorted(tops):
        if (site / top).exists():
            continue
        if top.endswith(".dist-info"):
            shutil.copytree(source / top, site / top, ignore=shutil.ignore_patterns("RECORD"))
        else:
            (site / top).symlink_to(source / top)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(create(Path(sys.argv[1])))
