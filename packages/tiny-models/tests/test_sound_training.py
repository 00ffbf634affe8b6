"""tiny-audio's training, in miniature: its checkpoint is one that the engine answers from."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from sensorium import LLM, SamplingParams
from sensorium_tiny_models.hearing import TRAIN, draw_item, item_rng
from sensorium_tiny_models.tones import RATE

TRAINING = Path(__file__).parents[1] / "training"


def run(*arguments: str) -> str:
    """A script of the training folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=TRAINING,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_engine_computes_what_training_computes() -> None:
    assert "log-probabilities differ by" in run("check_sound.py")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_is_resumed_and_its_checkpoint_answers(tmp_path: Path) -> None:
    options = ["--small", "--minutes", "9", "--batch", "8", "--workers", "1", "--show", "1",
               "--eval-items", "3", "--types", "beeps", "direction", "higher"]  # fmt: skip
    run("train_sound.py", str(tmp_path), "--max-steps", "2", *options)
    run("train_sound.py", str(tmp_path), "--max-steps", "3", "--resume", *options)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert all(set(row["heldout"]) == {"beeps", "direction", "higher"} for row in rows
               if row.get("final"))  # fmt: skip
    assert (tmp_path / "model.safetensors").stat().st_size < 15_000_000
    item = draw_item(item_rng("engine", 0, 0), TRAIN, "higher", 2.0)
    parts = [
        {"type": "input_audio", "input_audio": {"data": wav(clip), "format": "wav"}}
        for clip in item.clips
    ]
    parts.append({"type": "text", "text": item.question})
    with LLM(model=str(tmp_path), dtype="float32") as llm:
        audio = llm.get_tokenizer().token_to_id("<|audio|>")
        (output,) = llm.chat(
            [{"role": "user", "content": parts}], SamplingParams(max_tokens=4), use_tqdm=False
        )
    ids = list(output.prompt_token_ids)
    assert ids.count(audio) == 2 * 13  # 200 frames, 16 of which make a token
    assert ids.index(audio) == ids.index(audio, 3) > 0


def wav(clip: object) -> str:
    """A WAV file in base64."""
    file = io.BytesIO()
    soundfile.write(file, clip, RATE, format="WAV")
    return base64.b64encode(file.getvalue()).decode()
