"""Compiles the extension: the one list of its sources and flags.

    python csrc/build.py FOLDER            into FOLDER, what has changed since the last time
    SENSORIUM_BUILD_EXT=0|cpu|cuda|auto    nothing | CPU only | both | what fits (the default)
    SENSORIUM_CUDA_ARCHS="80 90a"          fewer GPU generations than a release has

Core's build hook calls ``build`` too. Two libraries come out, ``libsensorium_cpu.so`` and, with
nvcc, ``libsensorium_cuda.so``. Both speak to torch by its stable ABI and use no CPython symbol, so
one build serves every Python and every torch from 2.10. "auto" builds the CUDA library where nvcc
is found and the torch beside it is a CUDA build; it builds nothing, and says why, without a C++
compiler. Needs the standard library only; torch is looked for, never imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: In a checkout, where objects are kept between builds.
CACHE = HERE.parent / "build" / "extension"
VARIABLE = "SENSORIUM_BUILD_EXT"
CHOICES = ("auto", "cpu", "cuda", "0")
CPU_LIBRARY = "libsensorium_cpu.so"
CUDA_LIBRARY = "libsensorium_cuda.so"
#: Beside the libraries: why there are no more of them, and what each was made of.
RECORD = "built.json"

#: Torch's stable ABI as of 2.10 is all that is used.
COMMON = ["-std=c++20", "-O3", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
HOST = [
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
]

#: Instruction sets that the CPU's kernels are compiled for; the best is chosen at run time.
LEVELS: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
    "avx512bf16": (
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16"),
        *("-mfma", "-mf16c"),
    ),
}
#: Compiled once a level.
CPU_KERNELS = (
    *("cpu/attention.cpp", "cpu/elementwise.cpp", "cpu/grids.cpp", "cpu/linear.cpp"),
    "cpu/spectra.cpp",
)
CPU_PLAIN = ("cpu/dispatch.cpp", "cpu/program.cpp", "cpu/spectra_plan.cpp", "torch/cpu_library.cpp")
CUDA_SOURCES = (
    "cuda/attention.cu",
    "cuda/attention_decode.cu",
    "cuda/attention_prefill.cu",
    "cuda/elementwise.cu",
    "torch/cuda_library.cu",
)
#: Instructions that only Hopper has: compiled for it alone.
HOPPER_SOURCES = ("cuda/attention_prefill_sm90.cu",)
#: Machine code for each, and PTX of the last plain one for what comes later.
CUDA_ARCHS = ("80", "86", "89", "90", "100", "120")


class BuildError(Exception):
    """What was asked for can't be built; the message says why."""


@dataclass(frozen=True)
class Plan:
    """What is to be built.

    Attributes:
        cpu, cuda: whether each library is.
        reason: why not all of it, for whoever installs; "" if there is nothing to say.
    """

    cpu: bool
    cuda: bool
    reason: str = ""


def plan(*, need_torch: bool = True) -> Plan:
    """What the environment asks for and this machine can do.

    Args:
        need_torch: False before build requirements are installed.

    Raises:
        BuildError: the variable has another value, or names what can't be built here.
    """
    wanted = _wanted()
    if wanted not in CHOICES:
        raise BuildError(f"{VARIABLE} is {wanted!r}; allowed are {', '.join(CHOICES)}.")
    if wanted == "0":
        return Plan(False, False, f"{VARIABLE}=0")
    missing = _missing(need_torch)
    if missing and wanted != "auto":
        raise BuildError(f"{VARIABLE} is {wanted!r}, but {missing}.")
    if missing:
        return Plan(False, False, missing)
    if wanted == "cpu":
        return Plan(True, False, f"{VARIABLE}=cpu")
    if shutil.which("nvcc") is None:
        if wanted == "cuda":
            raise BuildError(f"{VARIABLE} is 'cuda', but there is no nvcc on the path.")
        return Plan(True, False, "there is no nvcc on the path")
    if wanted == "auto" and (not need_torch or not _torch_has_cuda()):
        return Plan(True, False, "the torch that is installed is a CPU build")
    return Plan(True, True)


def build(folder: Path, cache: Path | None = None) -> tuple[list[Path], str]:
    """Builds what is planned into ``folder``; libraries that are not planned are removed.

    Where nobody asked for a library by name, a compiler that fails is a reason, not an error.

    Args:
        cache: where objects are kept between builds, under names made of their contents.

    Returns:
        The libraries, and why there are no more of them.

    Raises:
        BuildError: a compiler fails.
    """
    planned = plan()
    reason = planned.reason
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RECORD
    before = json.loads(record.read_text())["made_of"] if record.exists() else {}
    made_of: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        objects = cache or Path(scratch)
        objects.mkdir(parents=True, exist_ok=True)
        for name, wanted, make in (
            (CPU_LIBRARY, planned.cpu, _build_cpu),
            (CUDA_LIBRARY, planned.cuda, _build_cuda),
        ):
            library = folder / name
            try:
                if wanted:
                    known = before.get(name) if library.exists() else None
                    made_of[name] = make(library, objects, Path(scratch), known)
            except BuildError as error:
                if _wanted() != "auto":
                    raise
                print(error, file=sys.stderr)
                reason = f"the compiler failed on {name}"
            if name not in made_of:
                library.unlink(missing_ok=True)
    record.write_text(json.dumps({"reason": reason, "made_of": made_of}, indent=1) + "\n")
    return [folder / name for name in made_of], reason


def platform_tag(libraries: list[Path]) -> str:
    """The wheel's platform, by the newest versions of glibc and libstdc++ that are asked for.

    Raises:
        BuildError: a library asks for a libstdc++ that the table below doesn't know.
    """
    minor = 17
    for library in libraries:
        symbols = _run(["objdump", "-T", str(library)])
        for found in re.findall(r"GLIBC_2\.(\d+)", symbols):
            minor = max(minor, int(found))
        for found in re.findall(r"GLIBCXX_3\.4\.(\d+)", symbols):
            minor = max(minor, _glibc_beside(int(found)))
    return f"manylinux_2_{minor}_{os.uname().machine}"


def _glibc_beside(glibcxx: int) -> int:
    """The oldest manylinux platform (PEP 600's policies) whose libstdc++ has GLIBCXX_3.4.N."""
    for newest, minor in ((19, 17), (22, 24), (24, 27), (25, 31), (29, 34), (30, 35), (33, 39)):
        if glibcxx <= newest:
            return minor
    raise BuildError(f"No known platform brings GLIBCXX_3.4.{glibcxx}; complete the table.")


def _build_cpu(library: Path, objects: Path, scratch: Path, known: str | None) -> str:
    """Builds the library unless it is ``known`` to be made of the same; returns what of."""
    flags = [*COMMON, *HOST, *_includes()]
    jobs: list[list[str]] = []
    names = []
    for source in CPU_PLAIN:
        jobs.append([_compiler(), *flags, *_level_macros(), "-c", str(HERE / source)])
        names.append(source)
    for level in _levels():
        own = [*COMMON, *HOST, f"-I{HERE}", f"-DSENSORIUM_ISA={level}", *LEVELS[level]]
        for source in CPU_KERNELS:
            jobs.append([_compiler(), *own, "-c", str(HERE / source)])
            names.append(f"{source}:{level}")
    built = _compile_all(jobs, names, objects)
    lib = _torch() / "lib"
    link = ["-shared", "-Wl,--no-as-needed", f"-L{lib}", "-ltorch_cpu", "-Wl,--as-needed"]
    return _link([_compiler(), *map(str, built), *link], library, known)


def _build_cuda(library: Path, objects: Path, scratch: Path, known: str | None) -> str:
    """As ``_build_cpu``."""
    archs = os.environ.get("SENSORIUM_CUDA_ARCHS", "").split() or list(CUDA_ARCHS)
    flags = [*COMMON, "-DUSE_CUDA", "-Xcompiler", ",".join(HOST[:2]), *_includes()]
    hopper = HOPPER_SOURCES if any(arch.startswith("90") for arch in archs) else ()
    if hopper:
        flags.append("-DSENSORIUM_SM90A")
    sources = [*CUDA_SOURCES, *hopper]
    jobs = []
    for source in sources:
        gencodes = _gencodes(["90a"] if source in hopper else archs)
        jobs.append(["nvcc", *flags, *gencodes, "-c", str(HERE / source)])
    built = _compile_all(jobs, sources, objects)
    # A CPU build of torch lacks libtorch_cuda.so: an empty stand-in gives the linker its name.
    stub = scratch / "libtorch_cuda.so"
    source = scratch / "stub.c"
    source.write_text("")
    soname = "-Wl,-soname,libtorch_cuda.so"
    _run([_compiler(), "-shared", "-x", "c", str(source), "-o", str(stub), soname])
    link = ["-shared", f"-L{_torch() / 'lib'}", "-Xlinker", "--no-as-needed"]
    link += ["-ltorch_cuda", "-ltorch_cpu", "-Xlinker", "--allow-shlib-undefined"]
    return _link(["nvcc", *map(str, built), *link], library, known, [f"-L{scratch}"])


def _link(command: list[str], library: Path, known: str | None, also: Sequence[str] = ()) -> str:
    """Links beside the library and renames: one that is loaded somewhere is never overwritten."""
    key = hashlib.sha256("\0".join(command).encode()).hexdigest()
    if key != known:
        temporary = library.with_name(f".{library.name}.{os.getpid()}")
        _run([*command, *also, "-o", str(temporary)])
        temporary.replace(library)
    return key


def _compile_all(jobs: list[list[str]], names: list[str], objects: Path) -> list[Path]:
    """One object a job, those of unchanged contents taken from ``objects``."""
    headers = _digest([*HERE.glob("**/*.h"), *HERE.glob("**/*.cuh")])

    def one(job: list[str], name: str) -> Path:
        source = Path(job[-1])
        key = hashlib.sha256("\0".join([headers, _digest([source]), *job]).encode())
        target = objects / f"{re.sub(r'[^a-z0-9]+', '_', name)}-{key.hexdigest()[:16]}.o"
        if not target.exists():
            temporary = target.with_suffix(f".{os.getpid()}")
            _run([*job, "-o", str(temporary)])
            temporary.replace(target)
        return target

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(one, jobs, names))


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _wanted() -> str:
    return os.environ.get(VARIABLE) or "auto"


def _missing(need_torch: bool) -> str:
    """What stands against compiling anything; "" if nothing does."""
    if sys.platform != "linux":
        return f"the extension is built on Linux only, and this is {sys.platform}"
    if shutil.which(_compiler()) is None:
        return "there is no C++ compiler on the path"
    if shutil.which("objdump") is None:
        return "there is no objdump (binutils) on the path"
    if need_torch and _find_torch() is None:
        return "torch is not installed where the build runs"
    return ""


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


def _levels() -> list[str]:
    return list(LEVELS) if os.uname().machine == "x86_64" else ["plain"]


def _level_macros() -> list[str]:
    return [f"-DSENSORIUM_HAS_{level.upper()}" for level in _levels()]


def _gencodes(archs: Sequence[str]) -> list[str]:
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    plain = [arch for arch in archs if arch.isdigit()]
    if plain:
        flags.append(f"-gencode=arch=compute_{plain[-1]},code=compute_{plain[-1]}")
    return flags


def _includes() -> list[str]:
    include = _torch() / "include"
    nested = include / "torch" / "csrc" / "api" / "include"
    return [f"-I{HERE}", "-isystem", str(include), "-isystem", str(nested)]


def _torch() -> Path:
    found = _find_torch()
    if found is None:
        raise BuildError("torch is not installed where the build runs.")
    return found


def _find_torch() -> Path | None:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _torch_has_cuda() -> bool:
    text = (_torch() / "version.py").read_text()
    return re.search(r"^cuda\b.*=\s*['\"]\d", text, re.MULTILINE) is not None


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> int:
    """Builds into the folder that is named; 1 if a compiler fails."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    try:
        libraries, reason = build(Path(sys.argv[1]), CACHE)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for library in libraries:
        print(f"built {library}")
    if reason:
        print(f"not all of the extension is built: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
