"""The fonts of the drawings: which ones training sees, and which are held out.

The files are subsets (letters, digits, a little punctuation) that ship with this package;
`fonts/README.md` names each one's licence and origin.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

FOLDER = Path(__file__).parent / "fonts"

# Two families, of which no file is ever drawn in training.
HELD_OUT_FONTS: tuple[str, ...] = ("cabin", "cabinbold", "comicneue", "comicneuebold")


@lru_cache(maxsize=1)
def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.iterdir()) if path.suffix in {".ttf", ".otf"}}


def font_ids(*, held_out: bool) -> tuple[str, ...]:
    """The fonts of one side of the split, in a fixed order."""
    return tuple(name for name in _files() if (name in HELD_OUT_FONTS) == held_out)


@lru_cache(maxsize=4096)
def load(font_id: str, size: int) -> ImageFont.FreeTypeFont:
    """Open a font at a size in pixels; basic layout, so that every machine draws alike."""
    return ImageFont.truetype(str(_files()[font_id]), size, layout_engine=ImageFont.Layout.BASIC)
