"""Every task a person runs: `python3 dev.py NAME`, or `nox -s NAME` in an active environment.

All tasks share one virtual environment (the active one, else `.venv`), because torch is too large
to install once per task. `_set_up` brings it up to date and returns at once when nothing changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).resolve().parent
PACKAGES = sorted(file.parent for file in ROOT.glob("packages/*/pyproject.toml"))
EXTENSION = ROOT / "packages" / "core" / "src" / "sensorium" / "_extension"
CONSTRAINTS = ROOT / "constraints" / "dev.txt"
REQUIREMENTS = ROOT / "requirements" / "dev.txt"
DIST = ROOT / "dist"
GPU = ROOT / ".gpu"

ENVIRONMENT = Path(os.environ.get("VIRTUAL_ENV") or ROOT / ".venv")
PYTHON = str(ENVIRONMENT / "bin" / "python")

# What `quick` leaves out: comparisons with reference models, whole engines and servers, processes,
# wheels, contracts, mutated files, and what is drawn or compared by the hundred.
NOT_QUICK = (
    "packages/core/tests/engine/ipc",
    "packages/core/tests/engine/test_core_weights.py",
    "packages/core/tests/grammar/test_matcher.py",
    "packages/core/tests/media/fetch/test_url.py",
    "packages/core/tests/media/test_leftovers.py",
    "packages/core/tests/models/test_decoder_families.py",
    "packages/core/tests/ops/test_flash.py",
    "packages/core/tests/ops/test_paged.py",
    "packages/core/tests/ops/test_program.py",
    "packages/core/tests/ops/test_properties.py",
    "packages/core/tests/runner/test_sampling_theory.py",
    "packages/core/tests/scheduler/test_properties.py",
    "packages/core/tests/testing",
    "packages/core/tests/tokenizer/test_detokenizer.py",
    "packages/media-audio/tests/families",
    "packages/media-audio/tests/kind/test_fuzz.py",
    "packages/media-audio/tests/test_contracts.py",
    "packages/media-audio/tests/towers",
    "packages/media-image/tests/families/test_chat.py",
    "packages/media-image/tests/kind/test_fuzz.py",
    "packages/media-image/tests/test_anyres.py",
    "packages/media-image/tests/test_contracts.py",
    "packages/media-image/tests/test_smart_resize.py",
    "packages/media-image/tests/towers",
    "packages/media-video/tests/kind/test_fuzz.py",
    "packages/media-video/tests/kind/test_readers.py",
    "packages/media-video/tests/test_contracts.py",
    "packages/server-openai/tests/routes/test_fuzz.py",
    "packages/tiny-models/tests",
    "tests/engine",
    "tests/examples",
    "tests/oracle",
    "tests/plugins",
    "tests/repository/test_build_extension.py",
    "tests/security",
    "tests/server",
    "tests/wheels",
)
# Each process that runs tests holds a torch of its own, about a gigabyte.
MAX_TEST_PROCESSES = 4

# The machine that the `gpu` session packs for: CPython 3.12 on x86-64 Linux with a recent glibc.
GPU_PYTHON = "3.12"
GPU_ARCHS = os.environ.get("SENSORIUM_CUDA_ARCHS", "80 90a")
GPU_GLIBC_MINORS = (39, 35, 34, 31, 28, 27, 26, 24, 17)


@nox.session
def demo(session: nox.Session) -> None:
    """Ask the embedded tiny model about pictures; arguments go to `sensorium demo`."""
    _set_up(session)
    session.run(str(ENVIRONMENT / "bin" / "sensorium"), "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run everything that needs neither a network nor a GPU; arguments go to pytest."""
    _set_up(session)
    _pytest(session, "not gpu and not slow")


@nox.session
def quick(session: nox.Session) -> None:
    """Run the tests of single parts: no oracle, no whole engines; arguments go to pytest."""
    _set_up(session)
    ignored = [f"--ignore={ROOT / path}" for path in NOT_QUICK]
    _pytest(session, "not gpu and not slow", *ignored)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that need environments of their own or many minutes; arguments go to pytest."""
    _set_up(session)
    _build_wheels(session)
    _pytest(session, "slow and not gpu")


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff's checks and its formatter; `-- --fix` repairs what it can."""
    _set_up(session)
    fix = "--fix" in session.posargs
    session.run(PYTHON, "-m", "ruff", "check", *(["--fix"] if fix else []), ".")
    session.run(PYTHON, "-m", "ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy --strict: the repository's own scripts, then package by package."""
    _set_up(session)
    session.run(PYTHON, "-m", "mypy", "--strict", "noxfile.py", "dev.py", "tools", "src")
    for package in PACKAGES:
        session.run(PYTHON, "-m", "mypy", "--strict", str(package / "src"))


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every distribution into dist/ and install each wheel into an empty environment."""
    _set_up(session)
    _build_wheels(session, also_sdist=True)
    session.run(PYTHON, "tools/check_wheels.py", str(DIST))


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; arguments name some of them (`-- kernels`), all by default."""
    _set_up(session)
    scripts = {script.stem: script for script in sorted(ROOT.glob("benchmarks/*.py"))}
    for name in session.posargs or list(scripts):
        if name not in scripts:
            session.error(f"no benchmark is called {name!r}; there are: {', '.join(scripts)}")
        session.run(PYTHON, str(scripts[name]))


@nox.session
def gpu(session: nox.Session) -> None:
    """Pack wheels, missing dependencies and tests into .gpu/ for a machine with a CUDA GPU."""
    _set_up(session)
    _build_wheels(session, SENSORIUM_BUILD_EXT="cuda", SENSORIUM_CUDA_ARCHS=GPU_ARCHS)
    shutil.rmtree(GPU, ignore_errors=True)
    wheel_folder = GPU / "wheels"
    shutil.copytree(DIST, wheel_folder)
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GPU_GLIBC_MINORS]
    abis = ["--abi=cp" + GPU_PYTHON.replace(".", ""), "--abi=abi3", "--abi=none"]
    session.run(
        *(PYTHON, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:"),
        *("--implementation=cp", f"--python-version={GPU_PYTHON}", *abis, *platforms),
        *("-c", str(CONSTRAINTS), "-r", "requirements/gpu.txt", "-d", str(wheel_folder)),
    )
    _check_no_shared_folder(session, sorted(wheel_folder.glob("*.whl")))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, GPU / name)
    shutil.copy(ROOT / "tools" / "gpu_run.sh", GPU / "run.sh")
    test_folders = [package / "tests" for package in PACKAGES]
    shared = [ROOT / name for name in ("tests", "examples", "benchmarks", "docs")]
    for folder in [*test_folders, *shared]:
        if folder.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".*_cache", "results")
            shutil.copytree(folder, GPU / folder.relative_to(ROOT), ignore=ignored)
    size_mib = sum(file.stat().st_size for file in GPU.rglob("*") if file.is_file()) / 2**20
    session.log(f"{GPU.name}/ is packed ({size_mib:.1f} MiB); there: bash {GPU.name}/run.sh")


def _set_up(session: nox.Session) -> None:
    """Install the tools and, editable, every package, unless that was done with the same files."""
    if not Path(PYTHON).exists():
        session.error(f"no virtual environment is active; run `python3 dev.py {session.name}`")
    sources = [CONSTRAINTS, REQUIREMENTS, ROOT / "pyproject.toml"]
    sources += [package / "pyproject.toml" for package in PACKAGES]
    sources += [ROOT / "packages" / "core" / "hatch_build.py"]
    digest = hashlib.sha256(f"{ROOT} {sys.version}".encode())
    for source in sources:
        digest.update(source.read_bytes())
    stamp = ENVIRONMENT / "sensorium-setup.sha256"
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        # What has changed in csrc/ is compiled again, in place.
        session.run(PYTHON, "csrc/build.py", str(EXTENSION), silent=True)
        return
    session.log(f"setting up {ENVIRONMENT} (minutes: torch is large, the extension is compiled)")
    install = [PYTHON, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    install += ["-c", str(CONSTRAINTS)]
    session.run(*install, "-r", str(REQUIREMENTS))
    # Without build isolation: an isolated build may fetch a torch of its own.
    editables = [argument for package in PACKAGES for argument in ("-e", str(package))]
    session.run(*install, "--no-build-isolation", *editables, "-e", str(ROOT))
    stamp.write_text(digest.hexdigest())


def _pytest(session: nox.Session, marks: str, *options: str) -> None:
    """Run pytest, in as many processes as there are cores (`-n0` among the arguments: in one)."""
    count = min(MAX_TEST_PROCESSES, len(os.sched_getaffinity(0)))
    variables = {
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // count)),
        # Tests start dozens of processes; each would compile what it imports, and a run's own
        # processes every test file.
        "PYTHONDONTWRITEBYTECODE": "",
    }
    # In the order of collection, which begins with whole engines: by default the files with the
    # most tests come first, and those with few and long ones are left to one process at the end.
    spread = ["-n", str(count), "--dist", "loadfile", "--no-loadscope-reorder"]
    processes = spread if count > 1 else []
    command = [PYTHON, "-m", "pytest", "-m", marks, *processes, *options, *session.posargs]
    session.run(*command, env=variables)


def _build_wheels(session: nox.Session, *, also_sdist: bool = False, **variables: str) -> None:
    """Build into a fresh dist/, in the shared environment (no build isolation)."""
    shutil.rmtree(DIST, ignore_errors=True)
    targets = ["-t", "wheel", *(["-t", "sdist"] if also_sdist else [])]
    for folder in [ROOT, *PACKAGES]:
        with session.chdir(folder):
            build = [PYTHON, "-m", "hatchling", "build", *targets, "-d", str(DIST)]
            session.run(*build, silent=True, env=variables)
    session.log(f"built: {', '.join(sorted(file.name for file in DIST.iterdir()))}")


def _check_no_shared_folder(session: nox.Session, wheel_files: list[Path]) -> None:
    """Refuse wheels with a common top folder: `pip install --target` keeps only one of them."""
    owners: dict[str, str] = {}
    for wheel in wheel_files:
        for top in {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}:
            if top in owners:
                session.error(f"{wheel.name} and {owners[top]} both hold {top}")
            owners[top] = wheel.name
