"""Every example runs as it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from file_server import files_served
from tiny_checkpoints import (
    make_llava,
    make_minicpmv,
    make_phi3v,
    make_qwen2vl,
    make_qwen25vl,
)
from tiny_onevision import make_onevision
from tiny_ultravox import make_ultravox

from sensorium.assets.image import ImageAsset

Run = Callable[..., list[str]]
EXAMPLES = Path(__file__).parents[2] / "examples"
ANSWERS = {
    "single_and_batch": 3,
    "rgba_background": 3,
    "chat_parts": 1,
    "image_embeddings": 1,
    "stable_uuids": 3,
    "frames_as_images": 1,
    "async_stream": 2,
}
#: Examples of one family: how a random tiny checkpoint of it is made, and lines of its answers.
FAMILIES = {
    "minicpmv_embeddings": (make_minicpmv, 1),
    "phi3v_images": (make_phi3v, 1),
    "qwen_video": (make_qwen25vl, 3),
    "video_frames": (make_onevision, 3),
    "vlm2vec_embeddings": (make_phi3v, 2),
}


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random tiny LLaVA."""
    return make_llava(tmp_path_factory.mktemp("llava"), seed=2)


def test_every_example_is_listed_here() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert {name for name in found if not name.startswith("server_")} == {
        *ANSWERS,
        "audio_language",
        *FAMILIES,
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_on_the_family_it_is_for(run: Run, name: str, tmp_path: Path) -> None:
    make, num_answers = FAMILIES[name]
    assert len(run(name, str(make(tmp_path)))) >= num_answers


@pytest.mark.parametrize("name", ANSWERS)
def test_on_the_embedded_model(run: Run, name: str) -> None:
    assert len(run(name)) >= ANSWERS[name]


@pytest.mark.parametrize(
    "name",
    [
        "single_and_batch",
        "rgba_background",
        "image_embeddings",
        "stable_uuids",
    ],
)
def test_on_llava(run: Run, name: str, llava: Path) -> None:
    """The family that the examples were written for, here with random weights."""
    run(name, str(llava))


def test_a_picture_at_an_address(run: Run, llava: Path, tmp_path: Path) -> None:
    """The chat's URL leads to a server that sees the picture fetched once."""
    ImageAsset("stop_sign").pil_image.save(tmp_path / "512.jpg")
    with files_served(tmp_path) as files:
        assert len(run("chat_parts", str(llava), files.url + "/512.jpg")) >= ANSWERS["chat_parts"]
    assert files.fetched == {"512.jpg": 1}


def test_embeddings_on_qwen2vl(run: Run, tmp_path: Path) -> None:
    """The family whose embeddings come with a grid, here with random weights."""
    assert run("image_embeddings", str(make_qwen2vl(tmp_path)))


@pytest.mark.parametrize("make", [make_qwen2vl, make_minicpmv])
def test_clips_on_other_families(run: Run, make: Callable[[Path], Path], tmp_path: Path) -> None:
    assert run("video_frames", str(make(tmp_path)))


def test_on_ultravox(run: Run, tmp_path: Path) -> None:
    """Random weights; what is asserted is that there are answers."""
    assert run("audio_language", str(make_ultravox(tmp_path)))
