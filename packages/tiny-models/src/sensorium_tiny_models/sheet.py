"""Pictures for people: a contact sheet as one image, filmstrips, small previews for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_CELL_WIDTH, _PICTURE_HEIGHT, _LINE, _LINES = 250, 190, 15, 7
_CAPTION_CHARACTERS = 36
_FILM_EDGE = 3  # pixels of film between frames
_RIGHT, _WRONG, _PLAIN = (20, 120, 40), (190, 20, 20), (40, 40, 40)


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of a contact sheet; `right` is None where there is nothing to mark.

    `frames` are a clip's, shown as a filmstrip beside the images.
    """

    images: tuple[Image.Image, ...]
    question: str
    answer: str
    right: bool | None = None
    expected: str = ""
    frames: tuple[Image.Image, ...] = ()


def contact_sheet(cells: Sequence[Cell], columns: int = 5) -> Image.Image:
    """Lay the cells out in rows, each picture above its question and answer."""
    columns = max(1, min(columns, len(cells)))
    rows = -(-len(cells) // columns)
    height = _PICTURE_HEIGHT + _LINE * _LINES + 10
    sheet = Image.new("RGB", (columns * _CELL_WIDTH, max(1, rows) * height), "white")
    for index, cell in enumerate(cells):
        _draw_cell(sheet, index % columns * _CELL_WIDTH, index // columns * height, cell)
    return sheet


def _draw_cell(sheet: Image.Image, left: int, top: int, cell: Cell) -> None:
    pictures = list(cell.images)
    if cell.frames:
        pictures.append(filmstrip(cell.frames, _CELL_WIDTH - 14, _PICTURE_HEIGHT - 10))
    width = (_CELL_WIDTH - 10) // max(1, len(pictures)) - 4
    x = left + 5
    for image in pictures:
        small = image.convert("RGB")
        small.thumbnail((width, _PICTURE_HEIGHT - 10))
        sheet.paste(small, (x, top + 5))
        x += width + 4
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)  # the fonts of the drawings lack colons and much else
    y = top + _PICTURE_HEIGHT
    lines = [(line, _PLAIN) for line in textwrap.wrap(cell.question, _CAPTION_CHARACTERS)]
    ink = _PLAIN if cell.right is None else _RIGHT if cell.right else _WRONG
    lines += [(line, ink) for line in textwrap.wrap(cell.answer, _CAPTION_CHARACTERS)]
    if cell.right is False and cell.expected:
        expected = f"instead of  {cell.expected}"
        lines += [(line, _PLAIN) for line in textwrap.wrap(expected, _CAPTION_CHARACTERS)]
    for line, color in lines[:_LINES]:
        draw.text((left + 6, y), line, font=font, fill=color)
        y += _LINE


def filmstrip(frames: Sequence[Image.Image], width: int, height: int) -> Image.Image:
    """The frames in their order on black film, as large as `width` × `height` pixels allow."""
    frame = frames[0]
    best: tuple[float, int] = (0.0, 1)
    for columns in range(1, len(frames) + 1):
        rows = -(-len(frames) // columns)
        scale = min(
            (width / columns - _FILM_EDGE) / frame.width,
            (height / rows - _FILM_EDGE) / frame.height,
        )
        best = max(best, (scale, columns))
    scale, columns = best
    side = max(1, int(frame.width * scale)), max(1, int(frame.height * scale))
    step = side[0] + _FILM_EDGE, side[1] + _FILM_EDGE
    rows = -(-len(frames) // columns)
    film = Image.new("RGB", (columns * step[0], rows * step[1]), "black")
    for index, one in enumerate(frames):
        corner = index % columns * step[0] + 1, index // columns * step[1] + 1
        film.paste(one.convert("RGB").resize(side, Image.Resampling.BOX), corner)
    return film


def terminal_preview(images: Sequence[Image.Image], columns: int = 28) -> str:
    """The images side by side in 24-bit colour, two pixels a character cell (half blocks)."""
    small = [_shrunk(image, columns) for image in images]
    rows = max((image.height for image in small), default=0) // 2
    lines = []
    for row in range(rows):
        parts = [_line(image, row) for image in small]
        lines.append("  ".join(parts))
    return "\n".join(lines)


def _shrunk(image: Image.Image, columns: int) -> Image.Image:
    height = max(2, round(columns * image.height / image.width / 2) * 2)
    return image.convert("RGB").resize((columns, height), Image.Resampling.BOX)


def _line(image: Image.Image, row: int) -> str:
    if 2 * row + 1 >= image.height:
        return " " * image.width
    cells = []
    for column in range(image.width):
        upper, lower = (image.getpixel((column, 2 * row + half)) for half in (0, 1))
        assert isinstance(upper, tuple)
        assert isinstance(lower, tuple)
        front = ";".join(str(int(c)) for c in upper)
        back = ";".join(str(int(c)) for c in lower)
        cells.append(f"\x1b[38;2;{front};48;2;{back}m▀")
    return "".join(cells) + "\x1b[0m"
