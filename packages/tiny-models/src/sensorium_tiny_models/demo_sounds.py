"""tiny-audio's part of `sensorium demo`: drawn tones, and spoken sounds that come along."""

from __future__ import annotations

import json
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import sound_model_path
from .hearing import HELD_OUT, QUESTION_TYPES, SPOKEN, Item, draw_item, item_rng
from .tones import RATE, Samples

if TYPE_CHECKING:
    from PIL import Image

    from sensorium import LLM

    from .demo import Round, Shown

ABOUT = """\
tiny-audio: 6.5 million parameters, Ultravox's architecture, trained on computed tones and on
speech by espeak-ng. It is: a model that counts beeps, compares tones, and writes down digits
and 32 words, here in voices, timbres and combinations that its training never had.
It is not: a model for conversation, music or people's voices."""

_FOLDER = Path(__file__).parent / "sounds"
_TONES = tuple(name for name in QUESTION_TYPES if name not in SPOKEN)
_PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_WAVEFORM_SIZE = (220, 80)


def draw_items(seed: int, count: int) -> list[tuple[Item, tuple[Samples | bytes, ...]]]:
    """``count`` held-out questions, each with its sounds: drawn ones, or files that come along."""
    spoken = [_spoken(entry) for entry in json.loads((_FOLDER / "sounds.json").read_text())]
    items: list[tuple[Item, tuple[Samples | bytes, ...]]] = []
    for index in range(count):
        if index % 2 and index // 2 < len(spoken):
            items.append(spoken[index // 2])
        else:
            name = _TONES[(index + 1) // 2 % len(_TONES)]
            item = draw_item(item_rng("demo", seed, index), HELD_OUT, name)
            items.append((item, item.clips))
    return items


def heard(seed: int, count: int, folder: Path) -> Round:
    """Asks, and writes the sounds into ``folder`` as WAV files, numbered as they are asked."""
    from sensorium import LLM

    from .demo import Round, Shown

    items = draw_items(seed, count)
    begun = time.perf_counter()
    with LLM(model=str(sound_model_path())) as llm:
        loaded = time.perf_counter()
        said = answers(llm, [(sounds, item.question) for item, sounds in items])
    finished = time.perf_counter()
    shown = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, ((item, sounds), text) in enumerate(zip(items, said, strict=True), 1):
        clips = [samples(sound) for sound in sounds]
        for place, clip in enumerate(clips):
            letter = "ab"[place] if len(clips) > 1 else ""
            _write(folder / f"{number}{letter}-{item.question_type}.wav", clip)
        images = tuple(waveform(clip) for clip in clips)
        shown.append(Shown(item.question, text, text == item.answer, item.answer, images))
    return Round(tuple(shown), loaded - begun, finished - loaded)


def own_sound(file: Path, question: str) -> Shown:
    """One question about a file of the caller's.

    Raises:
        OSError: the file can't be read.
        SensoriumError: it is no sound, or no plugin for sounds is installed.
    """
    from sensorium import LLM

    from .demo import Shown

    clip = samples(file.read_bytes())
    with LLM(model=str(sound_model_path())) as llm:
        (said,) = answers(llm, [((clip,), question)])
    return Shown(question, said, images=(waveform(clip),))


def answers(llm: LLM, asked: Sequence[tuple[Sequence[Samples | bytes], str]]) -> list[str]:
    """The model's answers to (sounds, question), greedily decoded, in order."""
    from sensorium import SamplingParams

    prompts = []
    for sounds, question in asked:
        given: list[Any] = [
            sound if isinstance(sound, bytes) else (sound, RATE) for sound in sounds
        ]
        prompts.append(
            {
                "prompt": _PROMPT.format("<|audio|>" * len(sounds) + question),
                "multi_modal_data": {"audio": given},
            }
        )
    greedy = SamplingParams(temperature=0, max_tokens=48)
    outputs = llm.generate(prompts, greedy, use_tqdm=False)
    return [output.outputs[0].text.strip() for output in outputs]


def waveform(clip: Samples) -> Image.Image:
    """The clip's loudness over time, as a picture."""
    from PIL import Image, ImageDraw

    width, height = _WAVEFORM_SIZE
    picture = Image.new("RGB", _WAVEFORM_SIZE, "white")
    draw = ImageDraw.Draw(picture)
    peak = max(float(np.abs(clip).max(initial=0.0)), 1e-6)
    for x, part in enumerate(np.array_split(clip, width)):
        reach = float(np.abs(part).max(initial=0.0)) / peak * (height / 2 - 2)
        draw.line([(x, height / 2 - reach), (x, height / 2 + reach)], fill=(40, 90, 160))
    return picture


def _spoken(entry: dict[str, Any]) -> tuple[Item, tuple[bytes, ...]]:
    item = Item(
        entry["type"], (), entry["question"], entry["answer"], entry["answer"], entry["voice"]
    )
    return item, tuple((_FOLDER / name).read_bytes() for name in entry["files"])


def samples(sound: Samples | bytes) -> Samples:
    """The sound itself; a file is decoded by the plugin that the engine decodes it with."""
    if not isinstance(sound, bytes):
        return sound
    from sensorium.plugins.discovery import discover
    from sensorium.types import BytesSource

    kind = discover().kind("audio")({})
    decoded: Samples = kind.load([BytesSource(sound)]).value
    return decoded


def _write(file: Path, clip: Samples) -> None:
    """16-bit mono WAV."""
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((np.clip(clip, -1, 1) * 32_767).astype("<i2").tobytes())
