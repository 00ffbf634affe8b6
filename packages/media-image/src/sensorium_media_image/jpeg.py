"""Decodes JPEG by libjpeg-turbo, straight into the array that is returned.

Pillow decodes with the same library to the same levels, but four bytes a pixel in memory of
its own, from which three are copied out again. Files that this library can't decode without a
warning (damaged or cut off ones, say) are left to Pillow. Colours that need a conversion of
Pillow's (CMYK) aren't handled here: the caller keeps them away.
"""

from __future__ import annotations

import numpy as np
import simplejpeg  # type: ignore[import-untyped]

from sensorium_media_image.arrays import Uint8Array

#: Pillow's modes whose files come out the same here as from Pillow's own conversion to RGB.
MODES = ("L", "RGB")


def decode_jpeg(data: bytes, height: int, width: int) -> Uint8Array | None:
    """Encoded bytes → (height, width, 3) RGB, contiguous and writable; not turned by EXIF.

    Other threads run meanwhile.

    Returns:
        None where the library warns, or finds another size.
    """
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    try:
        decoded = simplejpeg.decode_jpeg(data, "RGB", buffer=rgb, strict=True)
    except ValueError:
        return None
    return rgb if decoded.shape == rgb.shape else None
