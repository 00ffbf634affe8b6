"""`sensorium demo`: draw pictures, ask the embedded model about them, show what it says.

Downloads nothing. Wrong answers are shown and marked, and counted in the score at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import model_path

if TYPE_CHECKING:
    from PIL import Image

    from sensorium import LLM

    from .questions import Item

HELP = "ask the small embedded model about pictures it has never seen"

ABOUT = """\
tiny-vl: 7.3 million parameters, Qwen2.5-VL's architecture, trained on drawings alone.
It is: a model that names shapes and colors, counts to six, tells where things lie, reads
short words and numbers, and compares two pictures. These use fonts and color-shape pairs
that its training never showed.
It is not: a model for photographs or for conversation. There it answers nonsense, with
confidence. It makes the engine run with no download; it is no measure of what the engine
does with a large model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sensorium demo`."""
    parser.add_argument("--seed", type=int, default=1, help="which pictures are drawn (default: 1)")
    parser.add_argument(
        "--count", type=_positive, default=18, help="how many questions are asked (default: 18)"
    )
    parser.add_argument(
        "--sheet", type=Path, default=Path("demo-pictures.png"), metavar="FILE",
        help="where the pictures go, as one image (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--image", type=Path, metavar="FILE", help="ask about a picture of yours")
    parser.add_argument("--ask", metavar="TEXT", help="the question about it (with --image)")
    parser.add_argument(
        "--no-preview", action="store_true", help="no pictures in the terminal, only text"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Answer, show, score. Returns the exit status: 2 where the options or files are wrong."""
    if (args.image is None) != (args.ask is None):
        print("sensorium demo: --image and --ask go together", file=sys.stderr)
        return 2
    try:
        if args.image is not None:
            return _own_picture(args.image, args.ask, preview=not args.no_preview)
        return _drawn(args)
    except OSError as error:
        print(f"sensorium demo: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2


def answers(llm: LLM, asked: Sequence[tuple[Sequence[Image.Image], str]]) -> list[str]:
    """The model's answers to (pictures, question), greedily decoded, in order."""
    from sensorium import SamplingParams

    conversations = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image_pil", "image_pil": image} for image in images),
                    {"type": "text", "text": question},
                ],
            }
        ]
        for images, question in asked
    ]
    greedy = SamplingParams(temperature=0, max_tokens=48)
    outputs = llm.chat(conversations, sampling_params=greedy, use_tqdm=False)
    return [output.outputs[0].text.strip() for output in outputs]


def _drawn(args: argparse.Namespace) -> int:
    from sensorium import LLM

    from .questions import HELD_OUT, QUESTION_TYPES, draw_item, item_rng

    print(ABOUT, end="\n\n")
    items = [
        draw_item(item_rng("demo", args.seed, i), HELD_OUT, QUESTION_TYPES[i % len(QUESTION_TYPES)])
        for i in range(args.count)
    ]
    begun = time.perf_counter()
    with LLM(model=str(model_path())) as llm:
        loaded = time.perf_counter()
        said = answers(llm, [(item.images, item.question) for item in items])
    finished = time.perf_counter()
    right = [
        _show(item, text, preview=not args.no_preview)
        for item, text in zip(items, said, strict=True)
    ]
    _write_sheet(args.sheet, items, said, right)
    print(f"{sum(right)} of {len(right)} right. The pictures are in {args.sheet}.")
    print(f"Loading took {loaded - begun:.1f} s, answering {finished - loaded:.1f} s.")
    print("Other pictures: --seed 2. A picture of yours: --image FILE --ask 'What shape is this?'")
    return 0


def _show(item: Item, said: str, *, preview: bool) -> bool:
    from .score import is_right

    _preview(item.images, preview)
    right = is_right(item, said)
    print(f"  {item.question}")
    print(f"  {'right' if right else 'WRONG'}  {said}")
    if not right:
        print(f"         It should be: {item.answer}")
    print()
    return right


def _preview(images: Sequence[Image.Image], wanted: bool) -> None:
    """Half-block previews, where a terminal reads this; a file or a pipe gets none."""
    from .sheet import terminal_preview

    if wanted and sys.stdout.isatty():
        print(terminal_preview(images))


def _write_sheet(
    file: Path, items: Sequence[Item], said: Sequence[str], right: Sequence[bool]
) -> None:
    from .sheet import Cell, contact_sheet

    cells = [
        Cell(item.images, item.question, text, mark, item.answer)
        for item, text, mark in zip(items, said, right, strict=True)
    ]
    contact_sheet(cells, columns=6).save(file)


def _own_picture(file: Path, question: str, *, preview: bool) -> int:
    from PIL import Image, UnidentifiedImageError

    from sensorium import LLM

    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except UnidentifiedImageError:
        print(f"sensorium demo: {file} is not an image that can be read", file=sys.stderr)
        return 2
    print(ABOUT, end="\n\n")
    _preview([image], preview)
    with LLM(model=str(model_path())) as llm:
        (said,) = answers(llm, [([image], question)])
    print(f"  {question}\n  {said}")
    return 0
