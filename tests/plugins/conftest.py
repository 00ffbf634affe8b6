"""Distributions for the tests of plugins: real wheels, and the same laid out without pip."""

import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
Installed = Callable[..., AbstractContextManager[None]]


class Wheelhouse:
    """Makes wheels, installs them with pip, and runs Python with them on its path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def wheel(
        self,
        distribution: str,
        files: Mapping[str, str],
        *,
        entries: Mapping[str, str],
        version: str = "1.0",
    ) -> Path:
        """A wheel with these modules (name → source) and entry points of our group."""
        name = distribution.replace("-", "_")
        info = f"{name}-{version}.dist-info"
        points = "".join(f"{key} = {value}\n" for key, value in entries.items())
        content = {f"{module}.py": textwrap.dedent(source) for module, source in files.items()}
        content[f"{info}/METADATA"] = (
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        content[f"{info}/entry_points.txt"] = f"[sensorium.plugins]\n{points}"
        record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
        content[f"{info}/RECORD"] = record
        wheel = self._folder / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in content.items():
                archive.writestr(path, text)
        return wheel

    def build(self, source: Path) -> Path:
        """A wheel of a distribution with a pyproject.toml, built by hatchling."""
        out = self._folder / f"built-{source.name}"
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        (wheel,) = out.glob("*.whl")
        return wheel

    def install(self, *wheels: Path, folder: str = "site") -> Path:
        """Installs wheels into a folder of their own."""
        site = self._folder / folder
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-index", "--no-compile", "--target", str(site)]
        subprocess.run([*command, *map(str, wheels)], check=True)
        return site

    def run(self, *arguments: str, sites: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
        """Runs Python with the sites on its path, in this order and before everything else."""
        path = ":".join(map(str, sites))
        return subprocess.run(
            [sys.executable, *arguments],
            env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Wheelhouse:
    return Wheelhouse(tmp_path)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A context in which a distribution is installed as an editable one is: metadata in one
    folder of ``sys.path``, source in another."""

    @contextmanager
    def install(distribution: str, source: Path, module: str) -> Iterator[None]:
        site = tmp_path_factory.mktemp("site")
        info = site / f"{distribution.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[sensorium.plugins]\nmain = {module}\n")
        package = module.partition(".")[0]
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(source)
                patch.syspath_prepend(site)
                yield
        finally:
            for name in [n for n in sys.modules if n.partition(".")[0] == package]:
                del sys.modules[name]

    return install
