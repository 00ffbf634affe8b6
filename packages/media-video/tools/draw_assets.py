"""Draws the clip that ships with the package: ``python packages/media-video/tools/draw_assets.py``.

A child with a book turns its pages, four times in six seconds. Nothing is random; the file depends
on the version of the encoder (x264, as PyAV brings it).
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT, RATE, NUM_FRAMES = 320, 240, 12, 72
FRAMES_A_PAGE = 18
ENLARGED = 3
FILE = (
    Path(__file__).parents[1] / "src" / "sensorium_media_video" / "asset_files" / "baby_reading.mp4"
)
PAGES = ((255, 250, 235), (250, 235, 205))
PICTURES = ((220, 70, 60), (60, 120, 210), (240, 190, 40), (70, 160, 90), (150, 90, 180))


def draw(number: int) -> Image.Image:
    """One frame."""
    picture = Image.new("RGB", (WIDTH * ENLARGED, HEIGHT * ENLARGED), (150, 195, 220))
    pen = ImageDraw.Draw(picture)
    pen.rectangle(_big(0, 185, 320, 240), fill=(175, 130, 90))
    _draw_child(pen, number)
    _draw_book(pen, number)
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _big(*numbers: float) -> tuple[float, ...]:
    return tuple(number * ENLARGED for number in numbers)


def _draw_child(pen: ImageDraw.ImageDraw, number: int) -> None:
    nod = 3 * math.sin(2 * math.pi * number / NUM_FRAMES * 3)
    pen.ellipse(_big(110, 110, 210, 230), fill=(240, 150, 90))
    pen.ellipse(_big(110, 25 + nod, 210, 125 + nod), fill=(250, 215, 185))
    pen.pieslice(_big(108, 20 + nod, 212, 120 + nod), 180, 360, fill=(110, 75, 45))
    is_blinking = number % 24 in (10, 11)
    for x in (140, 180):
        if is_blinking:
            pen.line(_big(x - 6, 88 + nod, x + 6, 88 + nod), fill=(60, 40, 30), width=2 * ENLARGED)
        else:
            pen.ellipse(_big(x - 5, 82 + nod, x + 5, 94 + nod), fill=(60, 40, 30))
    pen.arc(_big(148, 92 + nod, 172, 112 + nod), 20, 160, fill=(180, 70, 70), width=3 * ENLARGED)


def _draw_book(pen: ImageDraw.ImageDraw, number: int) -> None:
    turned, step = divmod(number, FRAMES_A_PAGE)
    left, right = PICTURES[turned % 5], PICTURES[(turned + 1) % 5]
    pen.rectangle(_big(86, 146, 234, 224), fill=(120, 40, 50))
    pen.rectangle(_big(90, 150, 160, 220), fill=PAGES[0])
    pen.rectangle(_big(160, 150, 230, 220), fill=PAGES[1])
    pen.ellipse(_big(105, 165, 145, 205), fill=left)
    pen.rectangle(_big(175, 165, 215, 205), fill=right)
    share = (step - 9) / 8  # a page is turned in the second half of its time
    if 0 < share < 1:
        reach = 70 * math.cos(math.pi * share)
        lift = 18 * math.sin(math.pi * share)
        corners = [(160, 150), (160 + reach, 150 - lift), (160 + reach, 220 - lift), (160, 220)]
        pen.polygon([_big(*corner) for corner in corners], fill=(235, 225, 205))
    for x in (86, 234):
        pen.ellipse(_big(x - 13, 175, x + 13, 201), fill=(250, 215, 185))


def main() -> None:
    """Writes the file."""
    FILE.parent.mkdir(exist_ok=True)
    with av.open(str(FILE), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, RATE)
        stream.options = {"crf": "24", "preset": "slow", "g": "24", "threads": "1"}
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(np.asarray(draw(number)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
