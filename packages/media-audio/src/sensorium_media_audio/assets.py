"""Small sounds for examples and first trials: ``from sensorium.assets.audio import AudioAsset``.

They are computed by a script of ours (``packages/media-audio/tools/make_assets.py``), not recorded,
and have the package's licence (Apache-2.0). Their names are those that users of vLLM's examples
know.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from sensorium.errors import ConfigError

NAMES = ("mary_had_lamb", "winning_call")
#: Where the files are served, if they are: the beginning of their URLs.
URL_VARIABLE = "SENSORIUM_ASSETS_URL"


@dataclass(frozen=True, slots=True)
class AudioAsset:
    """A sound that comes with this package; ``name`` is one of ``NAMES``.

    Raises:
        ConfigError: another name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(
                f"There is no audio asset {self.name!r}; there are {', '.join(NAMES)}."
            )

    @property
    def filename(self) -> str:
        """The file's name, Ogg/Vorbis."""
        return f"{self.name}.ogg"

    def get_local_path(self) -> Path:
        """The file."""
        return Path(str(resources.files("sensorium_media_audio") / "asset_files" / self.filename))

    @property
    def audio_and_sample_rate(self) -> tuple[npt.NDArray[np.float32], int]:
        """The sound, decoded: (samples,) float32 and how many of them make a second."""
        samples, rate = soundfile.read(self.get_local_path(), dtype="float32")
        return samples, rate

    @property
    def url(self) -> str:
        """Its address: below ``SENSORIUM_ASSETS_URL`` where that is set, else the file's."""
        base = os.environ.get(URL_VARIABLE)
        return f"{base.rstrip('/')}/{self.filename}" if base else self.get_local_path().as_uri()
