"""Small images for examples and first trials: ``from sensorium.assets.image import ImageAsset``.

They are drawn by a script of ours (``packages/media-image/tools/draw_assets.py``), not
photographs: their names are those that users of vLLM's examples know.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib import resources

from PIL import Image

from sensorium.errors import ConfigError

NAMES = ("cherry_blossom", "stop_sign")


@dataclass(frozen=True, slots=True)
class ImageAsset:
    """A drawn picture that comes with this package; ``name`` is one of ``NAMES``.

    Raises:
        ConfigError: another name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(
                f"There is no image asset {self.name!r}; there are {', '.join(NAMES)}."
            )

    @property
    def pil_image(self) -> Image.Image:
        """The image, decoded, mode RGB; a new object each time."""
        file = resources.files("sensorium_media_image") / "asset_files" / f"{self.name}.jpg"
        image = Image.open(io.BytesIO(file.read_bytes()), formats=["JPEG"])
        image.load()
        return image
