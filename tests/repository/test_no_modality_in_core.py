"""Core and the server name no modality: what they know of one comes from an installed plugin.

Every word of their files (identifiers, strings, comments, file names) is looked at, split at
underscores, capitals and everything that is not a letter: `image_url`, `ImageItem`, `pixelValues`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FORBIDDEN = {
    *("image", "images", "pixel", "pixels", "pil", "vision", "visual", "siglip"),
    *("video", "videos", "audio", "audios", "whisper"),
    # The same by other words: core speaks of items and kinds.
    *("picture", "pictures", "photo", "photos", "film", "films", "movie", "movies"),
    *("soundtrack", "soundtracks"),
}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
ESCAPE = re.compile(r"\\[abfnrtv]")
# `clip` is a method of arrays and tensors; as anything else it is a model's name.
CLIP_METHOD = re.compile(r"(?:\.|->|::)clip_?\(")


def forbidden_words(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, word) of each forbidden word in a text."""
    for number, line in enumerate(text.splitlines(), start=1):
        line = CLIP_METHOD.sub(" ", ESCAPE.sub(" ", line))
        for match in WORD.finditer(line):
            if match[0].lower() in FORBIDDEN | {"clip"}:
                yield number, match[0]


def core_files(root: Path) -> list[Path]:
    packages = root / "packages"
    folders = [packages / "core" / "src", packages / "server-openai" / "src", root / "csrc"]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return sorted(file for file in files if file.suffix not in {".pyc", ".so"})


def test_core_names_no_modality(root: Path) -> None:
    files = core_files(root)
    assert files, "core's source was not found"
    found = []
    for file in files:
        shown = file.relative_to(root)
        found += [f"{shown}: its name holds {word!r}" for _, word in forbidden_words(str(shown))]
        text = file.read_text(encoding="utf-8")
        found += [f"{shown}:{line}: {word!r}" for line, word in forbidden_words(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        *("image_url", "ImageItem", "pixelValues", "PILImage", "num_images2", "MAX_PIXELS"),
        *("'<audio>'", "# a video", "'\\nimage'", "visual", "model.vision_tower", "SiglipModel"),
        *("WhisperEncoder", "CLIPModel", "clip_model", "'clip'", "supportsVision"),
        *("# a picture", "films", "its soundtrack", "photo_url", "MovieReader"),
    ],
)
def test_a_planted_violation_is_found(text: str) -> None:
    assert {line for line, _ in forbidden_words(f"first line\n{text}\n")} == {2}


@pytest.mark.parametrize(
    "text", ["x.clip(0, 1)", "x->clip_(0)", "imaginary", "provision", "pile", "filmy"]
)
def test_other_words_are_left_alone(text: str) -> None:
    assert list(forbidden_words(text)) == []
