"""Compares the training's forward pass of tiny-audio with the project's engine, on random weights.

    python check_sound.py [--small]

The engine loads the checkpoint that training writes, makes spectrograms and tokens by itself, and
answers; training's forward pass then scores the same answer. Proven are the spelling of the
checkpoint, the places of the clips' tokens, and every row.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import json

import numpy as np
import sound_talk
import torch
from batches import group
from decoder import to_device
from safetensors.torch import save_file
from sound_data import FRAMES, Encoder, draw, spectrogram
from sound_files import Silent, prepare
from sound_forward import SoundForward, TinyAudio, published

from sensorium import LLM, SamplingParams
from sensorium_tiny_models.hearing import QUESTION_TYPES, item_rng
from sensorium_tiny_models.tones import RATE

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=1)


@torch.no_grad()
def main() -> None:
    """Fails by an assertion."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = Encoder(prepare(folder, small="--small" in sys.argv))
        model = TinyAudio(json.loads((folder / "config.json").read_text())).eval()
        for parameter in model.parameters():  # well away from the almost linear start
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
        for parameter in model.parameters():  # as the file will hold them
            parameter.copy_(parameter.bfloat16().float())
        save_file(published(model), folder / "model.safetensors", metadata={"format": "pt"})
        forward, worst = SoundForward(model, torch.device("cpu")), 0.0
        with LLM(model=str(folder), dtype="float32") as llm:
            for index, kind in enumerate(QUESTION_TYPES):
                frames = FRAMES[index % len(FRAMES)]
                item = draw(item_rng("check", 0, index), kind, frames, Silent())
                prompt = sound_talk.plain_prompt(item.question, len(item.clips))
                clips = [(clip, RATE) for clip in item.clips]
                (output,) = llm.generate(
                    {"prompt": prompt, "multi_modal_data": {"audio": clips}}, GREEDY, use_tqdm=False
                )
                said = output.outputs[0]
                row = encoder.row(prompt, "", frames)
                row.ids = [*row.ids[: -row.num_answer], *said.token_ids]
                row.num_answer = len(said.token_ids)
                row.positions = np.tile(np.arange(len(row.ids)), (3, 1))
                assert list(output.prompt_token_ids) == row.ids[: -row.num_answer], kind
                one = to_device(group([row], encoder.audio_id, len(clips)), forward.device)
                mels = torch.from_numpy(np.stack([spectrogram(clip) for clip in item.clips]))
                (logits,) = forward.all_logits([one], mels.float())
                ours = logits.log_softmax(-1)
                assert said.logprobs is not None
                for place, (token, given) in enumerate(
                    zip(said.token_ids, said.logprobs, strict=True)
                ):
                    worst = max(worst, abs(float(ours[place, token]) - given[token].logprob))
    print(f"log-probabilities differ by {worst:.2e} at most")
    assert worst < 5e-3  # spectrograms cross to training in float16


if __name__ == "__main__":
    main()
