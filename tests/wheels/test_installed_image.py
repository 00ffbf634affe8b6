"""``sensorium[image]`` from the built wheels alone, in an empty environment, answers a question."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"

PROGRAM = """
import random
from sensorium import LLM, SamplingParams
from sensorium_tiny_models import model_path
from sensorium_tiny_models.questions import draw_item

item = draw_item(random.Random("wheels/5"), "heldout", "digits")
content = [{"type": "image_pil", "image_pil": image} for image in item.images]
content.append({"type": "text", "text": item.question})
with LLM(str(model_path())) as llm:
    messages = [{"role": "user", "content": content}]
    (output,) = llm.chat(messages, SamplingParams(temperature=0.0, max_tokens=30), use_tqdm=False)
print(output.outputs[0].text == item.answer, item.answer, output.outputs[0].text, sep="|")
import sensorium
print(sensorium.__file__)
"""


def latest(name: str) -> Path:
    """The newest wheel of a distribution in ``dist/``, where the session ``slow`` builds them."""
    wheels = sorted(DIST.glob(f"{name}-*.whl"), key=lambda wheel: wheel.stat().st_mtime)
    assert wheels, f"dist/ has no wheel of {name}; `nox -s slow` builds it"
    return wheels[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_extra_answers_a_question(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    from bare_environment import create

    python = create(tmp_path / "environment")
    names = ("sensorium", "sensorium_core", "sensorium_media_image", "sensorium_tiny_models")
    ours = tmp_path / "ours.txt"
    distributions = [f"{name.replace('_', '-')} @ {latest(name).as_uri()}\n" for name in names]
    ours.write_text("".join(distributions))
    install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    install += ["-c", ROOT / "constraints" / "dev.txt", "-c", ours]
    subprocess.run([*install, f"sensorium[image] @ {latest('sensorium').as_uri()}"], check=True)
    done = subprocess.run(
        [python, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer, place = done.stdout.strip().splitlines()[-2:]
    assert answer.startswith("True|"), answer
    assert str(tmp_path) in place, "it was imported from somewhere else"
