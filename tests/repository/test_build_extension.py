"""``csrc/build.py``: what is built where, what is built again, and what is said of the rest.

A stand-in for the compiler writes down what it is called with, so that nothing takes long; real
builds are in ``tests/wheels``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"

#: Writes its command line to calls.txt beside itself, and something to what -o names.
COMPILER = """#!/bin/sh
echo "$(basename "$0") $*" >> "$(dirname "$0")/calls.txt"
while [ $# -gt 0 ]; do
    if [ "$1" = -o ]; then echo made > "$2"; fi
    shift
done
"""
BROKEN = "#!/bin/sh\necho 'a header is missing' >&2\nexit 1\n"


@pytest.fixture
def csrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, reading a copy of the sources; no variable of the caller's counts."""
    for name in ("SENSORIUM_BUILD_EXT", "SENSORIUM_CUDA_ARCHS", "CXX"):
        monkeypatch.delenv(name, raising=False)
    copy = tmp_path / "csrc"
    shutil.copytree(CSRC, copy, ignore=shutil.ignore_patterns("__pycache__"))
    spec = importlib.util.spec_from_file_location("csrc_build_under_test", copy / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


class Machine:
    """A path with nothing on it but the tools that a test puts there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tools = folder / "tools"
        self.tools.mkdir()
        self.calls = self.tools / "calls.txt"
        # The stand-ins are shell scripts, which need these two.
        for name in ("basename", "dirname"):
            (self.tools / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(self.tools))

    def has(self, *names: str, script: str = COMPILER) -> None:
        """Puts tools on the path."""
        for name in names:
            tool = self.tools / name
            tool.write_text(script)
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    def compiled(self) -> list[str]:
        """The command lines since the last time it was asked."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A newcomer's, with a C++ compiler and its binutils."""
    made = Machine(tmp_path, monkeypatch)
    made.has("g++", "objdump")
    return made


@pytest.fixture
def torch_of(
    csrc: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Puts a torch there, whose ``version.py`` is this."""

    def found(version: str) -> None:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "version.py").write_text(version)
        monkeypatch.setattr(csrc, "_find_torch", lambda: tmp_path / "torch")

    return found


@pytest.fixture
def cuda_torch(torch_of: Callable[[str], None]) -> None:
    """A torch that was built for CUDA."""
    torch_of("__version__ = '2.10.0'\ncuda: Optional[str] = '12.8'\n")


@pytest.fixture
def cpu_torch(torch_of: Callable[[str], None]) -> None:
    """One that wasn't."""
    torch_of("__version__ = '2.10.0+cpu'\ncuda: Optional[str] = None\n")


# --- what is planned ----------------------------------------------------------------------


def planned(csrc: ModuleType, **options: Any) -> tuple[bool, bool, str]:
    plan = csrc.plan(**options)
    return plan.cpu, plan.cuda, plan.reason


@pytest.mark.usefixtures("machine", "cuda_torch")
def test_a_compiler_without_nvcc_builds_the_cpu_library(csrc: ModuleType) -> None:
    assert planned(csrc) == (True, False, "there is no nvcc on the path")


@pytest.mark.usefixtures("cuda_torch")
def test_nvcc_and_a_cuda_torch_build_both(csrc: ModuleType, machine: Machine) -> None:
    machine.has("nvcc")
    assert planned(csrc) == (True, True, "")


@pytest.mark.usefixtures("cpu_torch")
def test_nvcc_beside_a_cpu_torch_is_used_on_request(
    csrc: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("nvcc")
    assert planned(csrc) == (True, False, "the torch that is installed is a CPU build")
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "cuda")
    assert planned(csrc) == (True, True, "")


def test_before_torch_is_there_only_the_tools_count(
    csrc: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csrc, "_find_torch", lambda: None)
    assert planned(csrc, need_torch=False)[0]
    machine.has("nvcc")
    assert planned(csrc, need_torch=False)[0]
    assert planned(csrc) == (False, False, "torch is not installed where the build runs")


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("g++", "there is no C++ compiler on the path"),
        ("objdump", "there is no objdump (binutils) on the path"),
    ],
)
@pytest.mark.usefixtures("cpu_torch")
def test_without_a_tool_nothing_is_built_unless_it_was_asked_for(
    csrc: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch, gone: str, reason: str
) -> None:
    (machine.tools / gone).unlink()
    assert planned(csrc) == (False, False, reason)
    for wanted in ("cpu", "cuda"):
        monkeypatch.setenv("SENSORIUM_BUILD_EXT", wanted)
        with pytest.raises(csrc.BuildError) as raised:
            csrc.plan()
        assert str(raised.value) == f"SENSORIUM_BUILD_EXT is {wanted!r}, but {reason}."


@pytest.mark.usefixtures("cpu_torch")
def test_another_compiler_is_named_by_cxx(
    csrc: ModuleType, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine.tools / "g++").rename(machine.tools / "my-clang")
    monkeypatch.setenv("CXX", "my-clang")
    assert planned(csrc)[0]


@pytest.mark.usefixtures("machine", "cpu_torch")
def test_other_systems_build_nothing(csrc: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csrc.sys, "platform", "darwin")
    reason = "the extension is built on Linux only, and this is darwin"
    assert planned(csrc) == (False, False, reason)


@pytest.mark.usefixtures("machine", "cpu_torch")
def test_the_variable_chooses(csrc: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "0")
    assert planned(csrc) == (False, False, "SENSORIUM_BUILD_EXT=0")
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "cpu")
    assert planned(csrc) == (True, False, "SENSORIUM_BUILD_EXT=cpu")
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "")
    assert planned(csrc)[0]
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "cuda")
    with pytest.raises(csrc.BuildError, match="is 'cuda', but there is no nvcc on the path"):
        csrc.plan()
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "yes")
    with pytest.raises(csrc.BuildError, match="is 'yes'; allowed are auto, cpu, cuda, 0"):
        csrc.plan()


# --- what is built ------------------------------------------------------------------------


@pytest.mark.usefixtures("cpu_torch")
def test_only_what_changed_is_compiled_again(
    csrc: ModuleType, machine: Machine, tmp_path: Path
) -> None:
    folder, cache = tmp_path / "out", tmp_path / "cache"
    libraries, reason = csrc.build(folder, cache)
    assert [library.name for library in libraries] == ["libsensorium_cpu.so"]
    assert reason == "there is no nvcc on the path"
    jobs = len(csrc.CPU_PLAIN) + len(csrc.CPU_KERNELS) * len(csrc._levels())
    assert len(machine.compiled()) == jobs + 1
    inode = libraries[0].stat().st_ino

    assert csrc.build(folder, cache) == (libraries, reason)
    assert machine.compiled() == []
    assert libraries[0].stat().st_ino == inode

    kernel = csrc.HERE / csrc.CPU_KERNELS[0]
    kernel.write_text(kernel.read_text() + "// changed\n")
    csrc.build(folder, cache)
    lines = machine.compiled()
    assert sum(str(kernel) in line for line in lines) == len(csrc._levels())
    assert len(lines) == len(csrc._levels()) + 1

    header = csrc.HERE / "attention.h"
    header.write_text(header.read_text() + "// changed\n")
    csrc.build(folder, cache)
    assert len(machine.compiled()) == jobs + 1


@pytest.mark.usefixtures("cpu_torch")
def test_a_library_that_is_gone_is_linked_again(
    csrc: ModuleType, machine: Machine, tmp_path: Path
) -> None:
    folder, cache = tmp_path / "out", tmp_path / "cache"
    (library,), _ = csrc.build(folder, cache)
    machine.compiled()
    library.unlink()
    csrc.build(folder, cache)
    assert library.exists()
    assert len(machine.compiled()) == 1


@pytest.mark.usefixtures("cuda_torch")
def test_libraries_that_are_not_planned_any_more_are_removed(
    csrc: ModuleType, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = tmp_path / "out", tmp_path / "cache"
    machine.has("nvcc")
    libraries, _ = csrc.build(folder, cache)
    assert {library.name for library in libraries} == {csrc.CPU_LIBRARY, csrc.CUDA_LIBRARY}
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "cpu")
    csrc.build(folder, cache)
    assert sorted(file.name for file in folder.iterdir()) == ["built.json", csrc.CPU_LIBRARY]
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "0")
    csrc.build(folder, cache)
    assert [file.name for file in folder.iterdir()] == ["built.json"]
    record = json.loads((folder / "built.json").read_text())
    assert record == {"reason": "SENSORIUM_BUILD_EXT=0", "made_of": {}}


@pytest.mark.usefixtures("cuda_torch")
def test_the_cuda_library_is_for_the_gpus_that_are_asked_for(
    csrc: ModuleType, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("nvcc")
    monkeypatch.setenv("SENSORIUM_CUDA_ARCHS", "80 90a")
    csrc.build(tmp_path / "out")
    compiled = [line for line in machine.compiled() if line.startswith("nvcc") and " -c " in line]
    assert len(compiled) == len(csrc.CUDA_SOURCES) + len(csrc.HOPPER_SOURCES)
    for line in compiled:
        hopper = line.split(" -o ")[0].endswith(csrc.HOPPER_SOURCES)
        assert ("code=sm_80" in line) != hopper
        assert ("code=compute_80" in line) != hopper, "PTX for what comes later"
        assert "code=sm_90a" in line
    monkeypatch.setenv("SENSORIUM_CUDA_ARCHS", "80")
    csrc.build(tmp_path / "out")
    assert not any(csrc.HOPPER_SOURCES[0] in line for line in machine.compiled())


@pytest.mark.parametrize("variable", [None, "", "auto"])
@pytest.mark.usefixtures("cpu_torch")
def test_a_compiler_that_fails_is_a_reason(
    csrc: ModuleType,
    machine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str | None,
) -> None:
    if variable is not None:
        monkeypatch.setenv("SENSORIUM_BUILD_EXT", variable)
    folder = tmp_path / "out"
    csrc.build(folder)
    machine.has("g++", script=BROKEN)
    assert csrc.build(folder) == ([], "the compiler failed on libsensorium_cpu.so")
    assert [file.name for file in folder.iterdir()] == ["built.json"]
    assert "a header is missing" in capsys.readouterr().err


@pytest.mark.usefixtures("cpu_torch")
def test_a_compiler_that_fails_on_request_is_an_error(
    csrc: ModuleType, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has("g++", script=BROKEN)
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "cpu")
    with pytest.raises(csrc.BuildError, match="a header is missing"):
        csrc.build(tmp_path / "out")


@pytest.mark.usefixtures("machine", "cpu_torch")
def test_the_command_says_what_it_built(
    csrc: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(csrc, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(csrc.sys, "argv", ["build.py"])
    assert csrc.main() == 2
    assert "SENSORIUM_BUILD_EXT=0|cpu|cuda|auto" in capsys.readouterr().out
    monkeypatch.setattr(csrc.sys, "argv", ["build.py", str(tmp_path / "out")])
    assert csrc.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        f"built {tmp_path / 'out' / csrc.CPU_LIBRARY}",
        "not all of the extension is built: there is no nvcc on the path",
    ]
    monkeypatch.setenv("SENSORIUM_BUILD_EXT", "maybe")
    assert csrc.main() == 1
    assert "is 'maybe'; allowed are" in capsys.readouterr().err


# --- what a wheel is called ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbols", "minor"),
    [
        ("GLIBC_2.2.5", 17),
        ("GLIBC_2.14 memcpy\nGLIBC_2.34 dlsym", 34),
        ("GLIBC_2.14\nGLIBCXX_3.4.29", 34),
        ("GLIBCXX_3.4.30", 35),
        ("GLIBCXX_3.4.21", 24),
    ],
)
def test_the_platform_is_the_oldest_that_has_every_symbol(
    csrc: ModuleType, machine: Machine, symbols: str, minor: int
) -> None:
    machine.has("objdump", script=f"#!/bin/sh\necho '{symbols}'\n")
    expected = f"manylinux_2_{minor}_{os.uname().machine}"
    assert csrc.platform_tag([Path("library.so")]) == expected


def test_a_libstdcpp_that_no_platform_is_known_for_is_refused(
    csrc: ModuleType, machine: Machine
) -> None:
    machine.has("objdump", script="#!/bin/sh\necho GLIBCXX_3.4.99\n")
    with pytest.raises(csrc.BuildError, match=r"brings GLIBCXX_3\.4\.99"):
        csrc.platform_tag([Path("library.so")])


# --- what the start-up line makes of it ---------------------------------------------------

SAYS = """
import torch
from pathlib import Path
from sensorium.ops import AttentionLayout, AttentionSpec, choose_attention, extension
extension.FOLDER = Path({folder!r})
layout = AttentionLayout(torch.device("cpu"), torch.float32, head_size=64, page_size=16)
print(choose_attention([AttentionSpec(1.0)], layout).describe())
print(extension.serves(torch.zeros(1)))
"""


@pytest.mark.usefixtures("cpu_torch")
def test_the_reason_of_the_build_is_in_the_start_up_line(
    csrc: ModuleType, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    machine.has("g++", script=BROKEN)
    csrc.build(folder)
    assert json.loads((folder / "built.json").read_text())["made_of"] == {}
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)
    program = SAYS.format(folder=str(folder))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    line, serves = done.stdout.splitlines()
    assert line.startswith("reference [")
    reason = "the compiler failed on libsensorium_cpu.so"
    assert f"it was built without its cpu library ({reason})" in line
    assert serves == "False"
