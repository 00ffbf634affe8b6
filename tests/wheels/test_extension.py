"""The extension inside core's wheel: from sdist and repository, on this torch and the oldest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
LIBRARY = "sensorium/_extension/libsensorium_cpu.so"
#: torch is gigabytes: this environment is made once and kept.
OLDEST = ROOT / "build" / "torch-2.10"

#: Every op against plain torch, then an answer; prints the versions and what ran.
PROGRAM = """
import torch
from sensorium import LLM, SamplingParams
from sensorium.ops import extension
from sensorium_tiny_models import model_path

ops, n, f = torch.ops.sensorium, torch.randn, torch.nn.functional
assert extension.lack(torch.device("cpu"), torch.float32) is None
def near(out, wanted):
    torch.testing.assert_close(out, wanted, rtol=2e-5, atol=2e-5)
x, weight = n(3, 64), n(64)
near(ops.rms_norm(x, weight, 1e-6), f.rms_norm(x, (64,), weight, 1e-6))
stream = n(3, 64)
total = x + stream
near(ops.add_rms_norm(x, stream, weight, 1e-6), f.rms_norm(total, (64,), weight, 1e-6))
near(stream, total)
near(ops.silu_mul(x), f.silu(x[:, :32]) * x[:, 32:])
matrix, bias = n(5, 64), n(5)
near(ops.linear(x, matrix, bias), f.linear(x, matrix, bias))
q, k, v = n(3, 20, 4, 16).unbind()
q = q.contiguous()
wanted = f.scaled_dot_product_attention(
    q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True
).transpose(0, 1)
at = torch.tensor([0, 20], dtype=torch.int32)
near(ops.varlen_attention(q, k, v, at, 20, 0.25, True), wanted)
kv, slots = torch.zeros(2, 2, 16, 4, 16), torch.arange(20)
ops.store_kv(k, v, kv, slots)
near(kv.flatten(1, 2)[:, :20], torch.stack([k, v]))
table = torch.tensor([[0, 1]], dtype=torch.int32)
lens = torch.tensor([20], dtype=torch.int32)
near(ops.paged_attention(q, kv, at, lens, table, None, 20, 20, 0.25, 0, 0.0), wanted)
angle = n(20, 8)
cos, sin = angle.cos(), angle.sin()
def turned(y):
    a, b, c, s = y[..., :8], y[..., 8:], cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], -1)
wanted_q = turned(q)
alone = q.clone()
ops.rope(alone, cos, sin)
near(alone, wanted_q)
ops.rope_store_kv(q, k, v, cos, sin, kv, slots)
near(q, wanted_q)
near(kv.flatten(1, 2)[0, :20], turned(k))
greedy = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
with LLM(str(model_path())) as llm:
    (output,) = llm.generate(["What is"], greedy, use_tqdm=False)
assert len(output.outputs[0].token_ids) == 8
print(torch.__version__, *sorted(extension.CALLS), sep="|")
"""
CALLED = ("paged_attention", "rope_store_kv", "rms_norm", "add_rms_norm", "silu_mul", "linear")


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    """What a command prints; no source folder of ours is on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def build(folder: Path, out: Path, *targets: str, **variables: str) -> Path:
    """The one distribution that hatchling makes of ``folder``."""
    arguments = [argument for target in targets for argument in ("-t", target)]
    run(sys.executable, "-m", "hatchling", "build", *arguments, "-d", out, cwd=folder, **variables)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Core's sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = build(ROOT / "packages" / "core", folder / "out", "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = folder.glob("sensorium_core-*/")
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Core's wheel with the CPU library, from the sdist alone."""
    out = tmp_path_factory.mktemp("wheel")
    return build(sdist, out, "wheel", SENSORIUM_BUILD_EXT="cpu")


def others(folder: Path) -> list[Path]:
    """Wheels of the packages that the answer needs."""
    return [
        build(ROOT / "packages" / name, folder / name, "wheel")
        for name in ("media-image", "tiny-models")
    ]


def try_wheel(python: Path, wheel: Path, folder: Path) -> str:
    """Installs into an environment that has torch, and runs the program; its last line."""
    install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    run(*install, "--force-reinstall", "--no-deps", wheel, *others(folder))
    # What they need besides; torch is there, and pip leaves what is there alone.
    run(*install, wheel, *(folder.glob("*/*.whl")))
    return run(python, "-c", PROGRAM, cwd=folder).strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_is_for_every_python_and_asks_for_none(wheel: Path, tmp_path: Path) -> None:
    assert re.search(r"-py3-none-manylinux_2_\d+_\w+\.whl$", wheel.name), wheel.name
    with zipfile.ZipFile(wheel) as archive:
        library = Path(archive.extract(LIBRARY, tmp_path))
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/WHEEL"))
        assert "Root-Is-Purelib: false" in archive.read(metadata).decode()
    asked = re.findall(r"\*UND\*.*\s(\S+)$", run("objdump", "-T", library), re.MULTILINE)
    assert any("aoti_torch" in name for name in asked), "it speaks to torch by the stable ABI"
    assert not [name for name in asked if name.startswith(("Py", "_Py"))]
    # A C++ symbol of torch is one that the next release may change.
    assert not [name for name in asked if re.match(r"_ZNK?(2at|3c10|5torch)", name)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_repository_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    other = build(ROOT / "packages" / "core", tmp_path, "wheel", SENSORIUM_BUILD_EXT="cpu")
    assert other.name == wheel.name
    with zipfile.ZipFile(other) as mine, zipfile.ZipFile(wheel) as from_sdist:
        assert sorted(mine.namelist()) == sorted(from_sdist.namelist())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_the_extension_the_wheel_is_for_any_platform(sdist: Path, tmp_path: Path) -> None:
    pure = build(sdist, tmp_path, "wheel", SENSORIUM_BUILD_EXT="0")
    assert pure.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(pure) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        assert b"SENSORIUM_BUILD_EXT=0" in archive.read("sensorium/_extension/built.json")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_answers_on_this_torch(wheel: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    from bare_environment import create

    answer = try_wheel(create(tmp_path / "environment"), wheel, tmp_path).split("|")
    assert {f"cpu.{op}" for op in CALLED} <= set(answer)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_wheel_answers_on_the_oldest_torch(wheel: Path, tmp_path: Path) -> None:
    """Made where it is missing: 3 GB to fetch, 7 GB on disk."""
    python = OLDEST / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", OLDEST)
    has = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"
    if run(python, "-c", has).strip() != "True":
        run(python, "-m", "pip", "install", "-qq", "--no-cache-dir", "torch==2.10.0")
    answer = try_wheel(python, wheel, tmp_path).split("|")
    assert answer[0].startswith("2.10.")
    assert {f"cpu.{op}" for op in CALLED} <= set(answer)
