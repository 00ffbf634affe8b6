"""Scoring, the controls, and the pictures for people."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from PIL import Image

from sensorium_tiny_models import demo, fonts
from sensorium_tiny_models.questions import HELD_OUT, Item
from sensorium_tiny_models.score import (
    Guesser,
    accuracy,
    draw_items,
    grey,
    is_right,
    measure,
    swapped,
    table,
)
from sensorium_tiny_models.sheet import Cell, contact_sheet, filmstrip, terminal_preview


def test_only_the_whole_answer_is_right() -> None:
    item = draw_items(HELD_OUT, 1, "color", 1)[0]
    assert is_right(item, f" {item.answer}\n")
    assert not is_right(item, item.answer[:-1])
    assert not is_right(item, item.answer.lower())


def test_controls_keep_the_question_and_change_the_pictures() -> None:
    items = draw_items(HELD_OUT, 1, "compare", 12)
    blank = grey(items[0])
    assert (blank.question, blank.answer) == (items[0].question, items[0].answer)
    assert [i.size for i in blank.images] == [i.size for i in items[0].images]
    assert blank.images[0].getcolors() == [(blank.images[0].width * blank.images[0].height,
                                            (128, 128, 128))]  # fmt: skip
    for item, other in zip(items, swapped(items), strict=True):
        assert item.question == other.question
        assert item.images != other.images


def test_a_guesser_is_right_as_often_as_the_prior_allows() -> None:
    items = draw_items(HELD_OUT, 1, "relation", 100)
    assert accuracy(items, Guesser("relation", 500)(items)) < 0.6


def test_the_table_has_a_row_a_type() -> None:
    def oracle(items: list[Item]) -> list[str]:
        return [item.answer for item in items]

    rows = measure(oracle, HELD_OUT, 1, 4, ("color", "shape"))  # type: ignore[arg-type]
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| color | 4 | 100.0 |")


def test_a_contact_sheet_holds_every_cell() -> None:
    items = [draw_items(HELD_OUT, 2, kind, 1)[0] for kind in ("color", "compare", "words")]
    cells = [Cell(i.images, i.question, i.answer, False, i.answer) for i in items]
    one_row, two_rows = contact_sheet(cells, columns=3), contact_sheet(cells, columns=2)
    assert one_row.width * 2 == two_rows.width * 3
    assert two_rows.height == 2 * one_row.height
    assert len(one_row.getcolors(1 << 24) or []) > 10


def test_captions_have_every_character_of_the_answers() -> None:
    """A glyph that a font lacks is a box, the same for each."""
    one, other = (contact_sheet([Cell((), "", text)]) for text in ("says:", "says\ue000"))
    assert one.tobytes() != other.tobytes()


def test_a_filmstrip_shows_every_frame_in_order() -> None:
    inks = [(40 * i, 255 - 40 * i, 90) for i in range(6)]
    film = filmstrip([Image.new("RGB", (100, 50), ink) for ink in inks], 240, 180)
    assert film.width <= 240
    assert film.height <= 180
    met = dict.fromkeys(
        film.getpixel((x, y)) for y in range(film.height) for x in range(film.width)
    )
    del met[0, 0, 0]
    assert list(met) == inks
    cell = Cell((), "What moves?", "The film.", frames=(film, film))
    assert len(contact_sheet([cell]).getcolors(1 << 24) or []) > 6


def test_a_preview_is_two_pixels_a_cell() -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    lines = terminal_preview([image], columns=10).splitlines()
    assert [line.count("▀") for line in lines] == [10, 10]
    assert "\x1b[38;2;255;0;0;48;2;255;0;0m▀" in lines[0]
    assert terminal_preview([image, Image.new("RGB", (20, 40))], columns=10).count("\n") == 9


def test_every_font_is_named_with_its_licence() -> None:
    listed = json.loads((fonts.FOLDER / "fonts.json").read_text())
    shipped = {path.name for path in fonts.FOLDER.iterdir() if path.suffix in (".otf", ".ttf")}
    assert {entry["file"] for entry in listed.values()} == shipped
    for entry in listed.values():
        assert (fonts.FOLDER / "licences" / f"{entry['licence']}.txt").is_file()
        assert entry["copyright"]


def test_the_demo_refuses_half_a_question_and_missing_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    assert demo.run(parser.parse_args(["--ask", "What is this?"])) == 2
    assert "--ask goes together with one of --image, --video" in capsys.readouterr().err
    assert demo.run(parser.parse_args(["--video", "none.mp4"])) == 2
    assert "--ask goes together with" in capsys.readouterr().err
    missing = str(tmp_path / "none.png")
    for option in ("--image", "--video"):
        assert demo.run(parser.parse_args([option, missing, "--ask", "What is this?"])) == 2
        assert "none.png: No such file" in capsys.readouterr().err
    text = tmp_path / "text.png"
    text.write_text("no picture")
    assert demo.run(parser.parse_args(["--image", str(text), "--ask", "What is this?"])) == 2
    assert "is not an image" in capsys.readouterr().err
