"""`sensorium demo`: draw pictures, ask the embedded model about them, show what it says.

Downloads nothing. Wrong answers are shown and marked, and counted in the score at the end.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import demo_sounds, model_path

if TYPE_CHECKING:
    from PIL import Image

    from sensorium import LLM

    from .questions import Item

HELP = "ask small embedded models about pictures, clips and sounds they have never met"

ABOUT = """\
tiny-vl: 7.3 million parameters, Qwen2.5-VL's architecture, trained on drawings alone.
It is: a model that names shapes and colors, counts to six, tells where things lie, reads
short words and numbers, compares two pictures, and says what moves, changes or comes first
in a short clip. These use fonts and color-shape pairs that its training never showed.
It is not: a model for photographs, films or conversation. There it answers nonsense, with
confidence. It makes the engine run with no download; it is no measure of what the engine
does with a large model."""

#: Kinds of which a file of the caller's can be asked about, each by an option of its name.
OWN_FILES = {"image": "a picture", "video": "a clip", "audio": "a sound"}
#: Questions about sounds: as many of each type as the spoken ones that come along allow.
MOST_SOUNDS = 10


@dataclass(frozen=True, slots=True)
class Shown:
    """A question of the demo and its answer.

    ``images`` are the pictures that were shown, or what stands for a clip or a sound on the sheet
    and in the terminal; ``frames`` are a clip's. ``right`` is None where there is nothing to mark.
    """

    question: str
    said: str
    right: bool | None = None
    expected: str = ""
    images: tuple[Image.Image, ...] = ()
    frames: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """A model's part of the demo: what it was asked, and the seconds that it took."""

    shown: tuple[Shown, ...]
    loading_s: float
    answering_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `sensorium demo`."""
    parser.add_argument("--seed", type=int, default=1, help="what is drawn (default: 1)")
    parser.add_argument(
        "--count",
        type=_positive,
        default=9,
        help="how many questions are asked about each kind of media (default: 9)",
    )
    parser.add_argument(
        "--sheet", type=Path, default=Path("demo-pictures.png"), metavar="FILE",
        help="where the pictures go, as one image (default: %(default)s)",
    )  # fmt: skip
    own = parser.add_mutually_exclusive_group()
    for kind, name in OWN_FILES.items():
        own.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"ask about {name} of yours")
    parser.add_argument("--ask", metavar="TEXT", help="the question about that file")
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
    from sensorium.errors import SensoriumError

    own = [(kind, file) for kind in OWN_FILES if (file := getattr(args, kind)) is not None]
    if bool(own) != (args.ask is not None):
        options = ", ".join(f"--{kind}" for kind in OWN_FILES)
        print(f"sensorium demo: --ask goes together with one of {options}", file=sys.stderr)
        return 2
    try:
        return _own_file(*own[0], args.ask, preview=not args.no_preview) if own else _drawn(args)
    except OSError as error:
        print(f"sensorium demo: {error.filename}: {error.strerror}", file=sys.stderr)
    except SensoriumError as error:
        print(f"sensorium demo: {error}", file=sys.stderr)
    return 2


def answers(llm: LLM, items: Sequence[Item]) -> list[str]:
    """The model's answers, greedily decoded, in order."""
    asked = []
    for item in items:
        parts: list[dict[str, Any]] = [
            {"type": "image_pil", "image_pil": image} for image in item.images
        ]
        if item.clip:
            parts.append({"type": "video", "video": list(item.clip)})
        asked.append((parts, item.question))
    return _chat(llm, asked)


def _chat(llm: LLM, asked: Sequence[tuple[Sequence[dict[str, Any]], str]]) -> list[str]:
    """Answers to (media parts, question), greedily decoded, in order."""
    from sensorium import SamplingParams

    conversations = [
        [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        for parts, question in asked
    ]
    greedy = SamplingParams(temperature=0, max_tokens=48)
    outputs = llm.chat(conversations, sampling_params=greedy, use_tqdm=False)
    return [output.outputs[0].text.strip() for output in outputs]


def _drawn(args: argparse.Namespace) -> int:
    from sensorium.errors import PluginError
    from sensorium.plugins.discovery import discover

    registry, missing = discover(), []
    for kind in OWN_FILES:
        try:
            registry.kind(kind)
        except PluginError as error:
            missing.append(str(error))
    print(ABOUT, end="\n\n")
    rounds = [_drawings(args, clips="video" in registry.kinds)]
    folder = args.sheet.parent / "demo-sounds"
    if "audio" in registry.kinds:
        print(demo_sounds.ABOUT, end="\n\n")
        rounds.append(demo_sounds.heard(args.seed, min(args.count, MOST_SOUNDS), folder))
    shown = [one for part in rounds for one in part.shown]
    for one in shown:
        _show(one, preview=not args.no_preview)
    _write_sheet(args.sheet, shown)
    right = [one.right for one in shown if one.right is not None]
    print(f"{sum(right)} of {len(right)} right. The pictures are in {args.sheet}.")
    if "audio" in registry.kinds:
        print(f"The sounds are in {folder}.")
    loading_s, answering_s = (
        sum(getattr(part, name) for part in rounds) for name in ("loading_s", "answering_s")
    )
    print(f"Loading took {loading_s:.1f} s, answering {answering_s:.1f} s.")
    print("Other pictures: --seed 2. A picture of yours: --image FILE --ask 'What shape is this?'")
    for sentence in missing:
        print(f"There is more to see: {sentence}")
    return 0


def draw_items(seed: int, count: int, *, clips: bool) -> list[Item]:
    """What is asked: ``count`` held-out questions about pictures, and as many about clips."""
    from .clips import CLIP_TYPES
    from .questions import HELD_OUT, QUESTION_TYPES, item_rng
    from .score import draw_one

    types = [QUESTION_TYPES[i % len(QUESTION_TYPES)] for i in range(count)]
    if clips:
        types += [CLIP_TYPES[i % len(CLIP_TYPES)] for i in range(count)]
    return [draw_one(item_rng("demo", seed, i), HELD_OUT, name) for i, name in enumerate(types)]


def _drawings(args: argparse.Namespace, *, clips: bool) -> Round:
    """tiny-vl's part: pictures, and clips where they can be read."""
    from sensorium import LLM

    from .score import is_right

    items = draw_items(args.seed, args.count, clips=clips)
    begun = time.perf_counter()
    with LLM(model=str(model_path())) as llm:
        loaded = time.perf_counter()
        said = answers(llm, items)
    finished = time.perf_counter()
    shown = tuple(
        Shown(item.question, text, is_right(item, text), item.answer, item.images, item.clip)
        for item, text in zip(items, said, strict=True)
    )
    return Round(shown, loaded - begun, finished - loaded)


def _show(one: Shown, *, preview: bool) -> None:
    _preview(one, preview)
    mark = "" if one.right is None else "right  " if one.right else "WRONG  "
    print(f"  {one.question}\n  {mark}{one.said}")
    if one.right is False:
        print(f"         It should be: {one.expected}")
    print()


def _preview(one: Shown, wanted: bool) -> None:
    """Half-block previews, where a terminal reads this; a file or a pipe gets none."""
    from .sheet import terminal_preview

    if wanted and sys.stdout.isatty():
        if one.images:
            print(terminal_preview(one.images))
        if one.frames:
            step = -(-len(one.frames) // 4)
            print(terminal_preview(one.frames[::step], columns=18))


def _write_sheet(file: Path, shown: Sequence[Shown]) -> None:
    from .sheet import Cell, contact_sheet

    cells = [
        Cell(one.images, one.question, one.said, one.right, one.expected, one.frames)
        for one in shown
    ]
    contact_sheet(cells, columns=6).save(file)


def _own_file(kind: str, file: Path, question: str, *, preview: bool) -> int:
    """Answers one question about a file of the caller's."""
    from sensorium import LLM

    if kind == "audio":
        print(demo_sounds.ABOUT, end="\n\n")
        _show(demo_sounds.own_sound(file, question), preview=preview)
        return 0
    images: tuple[Image.Image, ...] = ()
    part: dict[str, Any] = {"type": kind, kind: file}
    if kind == "image":
        image = _opened(file)
        if image is None:
            print(f"sensorium demo: {file} is not an image that can be read", file=sys.stderr)
            return 2
        images, part = (image,), {"type": "image_pil", "image_pil": image}
    else:
        file.stat()  # a missing file is told before the model is loaded
    print(ABOUT, end="\n\n")
    with LLM(model=str(model_path())) as llm:
        (said,) = _chat(llm, [([part], question)])
    _show(Shown(question, said, images=images), preview=preview)
    return 0


def _opened(file: Path) -> Image.Image | None:
    """The picture in a file; None: there is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except UnidentifiedImageError:
        return None
