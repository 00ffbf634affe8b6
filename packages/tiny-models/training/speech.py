"""Speech by espeak-ng's library, as Debian has it; used in training and in measuring alone.

``ESPEAK_FOLDER`` may name a folder made by ``pack_espeak.py``, for machines where it isn't
installed. The library is GPL-3.0; what it says is no part of it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from sensorium_tiny_models.spoken import Utterance
from sensorium_tiny_models.tones import RATE, Rng, Samples

#: ``en`` is British English.
ACCENTS = (
    "en-us", "en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
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
_LIBRARIES = ("libpcaudio.so.0", "libsonic.so.0", "libespeak-ng.so.1")
_QUIET = 0.01
# Constants of espeak-ng/speak_lib.h.
_SYNCHRONOUS, _SPEED, _PITCH, _WORD_GAP = 2, 1, 3, 7
_BY_CHARACTER, _UTF8 = 1, 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Espeak:
    """A ``Speaker`` with many voices.

    What a voice says differs by a few samples with what was said before it.

    Args:
        spread: how much faster or slower training's voices are played at most, which moves their
            resonances too; 0 in measuring.

    Raises:
        FileNotFoundError: the library isn't there.
    """

    def __init__(self, spread: float = 0.0) -> None:
        self._spread = spread
        folder = os.environ.get("ESPEAK_FOLDER")
        self._folder = Path(folder).resolve() if folder else None
        try:
            self._load()
        except OSError as error:
            raise FileNotFoundError(
                "espeak-ng's library isn't there: apt-get install espeak-ng, or name a folder of "
                f"pack_espeak.py in ESPEAK_FOLDER ({error})"
            ) from error

    def say(self, rng: Rng, text: str, *, held_out: bool) -> Utterance:
        """The text in a voice, an accent, at a speed and a pitch that are drawn."""
        variants = HELD_OUT_VARIANTS if held_out else VARIANTS
        variant = variants[int(rng.integers(0, len(variants)))]
        voice = f"{ACCENTS[int(rng.integers(0, len(ACCENTS)))]}+{variant}"
        speed, pitch, gap = (int(rng.integers(*ends)) for ends in ((130, 220), (20, 80), (0, 8)))
        spoken, rate = self._speak(text, voice, speed, pitch, gap)
        if not held_out and self._spread:
            rate *= 1.0 + self._spread * rng.uniform(-1.0, 1.0)
        samples = soxr.resample(spoken, rate, RATE)
        loud = (np.abs(samples) > _QUIET * np.abs(samples).max()).nonzero()[0]
        return Utterance(np.asarray(samples[loud[0] : loud[-1] + 1], dtype=np.float32), voice)

    def _speak(
        self, text: str, voice: str, speed: int, pitch: int, gap: int
    ) -> tuple[Samples, float]:
        """Samples and their rate."""
        library = self._library
        self._heard.clear()
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_SPEED, speed), (_PITCH, pitch), (_WORD_GAP, gap)):
            library.espeak_SetParameter(parameter, value, 0)
        words = text.encode()
        size = ctypes.c_size_t(len(words) + 1)
        library.espeak_Synth(words, size, 0, _BY_CHARACTER, 0, _UTF8, None, None)
        return np.frombuffer(b"".join(self._heard), dtype="<i2").astype(
            np.float32
        ) / 32768, self._rate

    def _load(self) -> None:
        """Opens the library and its data."""
        if self._folder is None:
            library = ctypes.CDLL(_LIBRARIES[-1])
        else:
            for name in _LIBRARIES:
                library = ctypes.CDLL(str(self._folder / name), mode=ctypes.RTLD_GLOBAL)
        data = str(self._folder).encode() if self._folder else None
        self._rate = float(library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0))
        if self._rate <= 0:
            raise OSError("espeak-ng finds no data")
        self._heard: list[bytes] = []

        def hear(samples: Any, count: int, events: Any) -> int:
            if samples and count > 0:
                self._heard.append(ctypes.string_at(samples, 2 * count))
            return 0

        self._callback = _Callback(hear)
        library.espeak_SetSynthCallback(self._callback)
        self._library = library
