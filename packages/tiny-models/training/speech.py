"""Speech by espeak-ng, a program of Debian's; used in training and in measuring alone.

``ESPEAK_FOLDER`` may name a folder made by ``pack_espeak.py``, for machines where it isn't
installed. The program is GPL-3.0; what it says is no part of it.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from pathlib import Path

import numpy as np
import soxr

from sensorium_tiny_models.spoken import Utterance
from sensorium_tiny_models.tones import RATE, Rng, Samples

ACCENTS = (
    "en-us", "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
    "en-029", "en-us-nyc",
)  # fmt: skip
VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m7", "m8", "f1", "f2", "f3", "f4", "Alex", "Alicia", "Annie",
    "Denis", "Gene", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Mike", "adam", "anika", "antonio",
    "aunty", "belinda", "benjamin", "boris", "caleb", "david", "edward", "gustave", "iven", "john",
    "klatt2", "klatt4", "linda", "marcelo", "max", "miguel", "norbert", "pablo", "paul", "pedro",
    "quincy", "rob", "robert", "sandro", "shelby", "travis", "victor", "zac",
)  # fmt: skip
#: Never heard in training, in any accent.
HELD_OUT_VARIANTS = ("m6", "f5", "Andrea", "Michael", "ed", "steph")
_HEADER_BYTES, _ESPEAK_RATE = 44, 22_050
_QUIET = 0.01


class Espeak:
    """A ``Speaker`` that runs the program for every utterance, with one of many voices.

    Args:
        num_kept: utterances of training that are kept; 0 in measuring.
        reused: the share of requests that a kept utterance of the same text answers, where there
            is one.

    Raises:
        FileNotFoundError: the program isn't there.
    """

    def __init__(self, num_kept: int = 0, reused: float = 0.5) -> None:
        folder = os.environ.get("ESPEAK_FOLDER")
        self._command, self._environment = ["espeak-ng"], None
        if folder:
            root = Path(folder).resolve()
            # The machine's own loader may be older than the program's libraries.
            self._command = [
                str(root / "ld-linux-x86-64.so.2"), "--library-path", str(root / "lib"),
                str(root / "espeak-ng"), f"--path={root}",
            ]  # fmt: skip
        self._kept: deque[tuple[str, bool, Utterance]] = deque(maxlen=num_kept)
        self._reused = reused
        subprocess.run([*self._command, "--version"], check=True, capture_output=True)

    def say(self, rng: Rng, text: str, *, held_out: bool) -> Utterance:
        """The text in a voice, an accent, at a speed and a pitch that are drawn."""
        if self._kept and rng.random() < self._reused:
            same = [said for words, held, said in self._kept if (words, held) == (text, held_out)]
            if same:
                return same[int(rng.integers(0, len(same)))]
        variants = HELD_OUT_VARIANTS if held_out else VARIANTS
        variant = variants[int(rng.integers(0, len(variants)))]
        voice = f"{ACCENTS[int(rng.integers(0, len(ACCENTS)))]}+{variant}"
        options = ["-v", voice, "-s", str(rng.integers(130, 220)), "-p", str(rng.integers(20, 80))]
        said = Utterance(self._run([*options, "-g", str(rng.integers(0, 8)), text]), voice)
        self._kept.append((text, held_out, said))
        return said

    def _run(self, arguments: list[str]) -> Samples:
        done = subprocess.run(
            [*self._command, "-z", "--stdout", *arguments], check=True, capture_output=True
        )
        spoken = np.frombuffer(done.stdout[_HEADER_BYTES:], dtype="<i2").astype(np.float32) / 32768
        samples = soxr.resample(spoken, _ESPEAK_RATE, RATE)
        loud = (np.abs(samples) > _QUIET * np.abs(samples).max()).nonzero()[0]
        return np.asarray(samples[loud[0] : loud[-1] + 1], dtype=np.float32)
