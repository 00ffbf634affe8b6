"""Makes the spoken sounds that the package ships, for a demo where nothing can speak.

    python make_sounds.py        into the package's folder sounds; needs espeak-ng and soundfile

They are held-out items: voices and combinations that training never has.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import soundfile
from speech import Espeak

from sensorium_tiny_models.hearing import HELD_OUT, draw_item, item_rng
from sensorium_tiny_models.tones import RATE

FOLDER = Path(__file__).parents[1] / "src" / "sensorium_tiny_models" / "sounds"
#: Question types, one for each item.
TYPES = ("digits", "words", "which", "digits", "words")
SEED = 17


def main() -> None:
    """Writes the files and ``sounds.json``, which says what is asked of which."""
    FOLDER.mkdir(exist_ok=True)
    speaker, table = Espeak(), []
    for index, name in enumerate(TYPES):
        item = draw_item(item_rng(f"sounds/{name}", SEED, index), HELD_OUT, name, 2.4, speaker)
        files = []
        for number, clip in enumerate(item.clips):
            files.append(f"{index}{'ab'[number]}.ogg")
            soundfile.write(FOLDER / files[-1], clip, RATE, format="OGG", subtype="VORBIS")
        table.append(
            {"type": name, "files": files, "question": item.question, "answer": item.answer,
             "voice": item.voice}
        )  # fmt: skip
    (FOLDER / "sounds.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
