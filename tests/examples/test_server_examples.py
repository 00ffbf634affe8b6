"""Every example of the server runs as it stands, against a server on loopback."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer, files_served
from PIL import Image
from served import Served, served
from tiny_checkpoints import make_llava, make_minicpmv, make_phi3v, make_qwen2vl, write_json
from tiny_onevision import make_onevision
from tiny_ultravox import make_ultravox

from sensorium import LLM, AsyncEngine, SamplingParams
from sensorium.assets.audio import AudioAsset
from sensorium.assets.image import ImageAsset
from sensorium_server_openai.command.serve import add_arguments
from sensorium_server_openai.command.settings import gather
from sensorium_server_openai.engine_port import EnginePort
from sensorium_tiny_models import model_path

Run = Callable[..., list[str]]
EXAMPLES = Path(__file__).parents[2] / "examples"
ANSWERS = {
    "server_images": 2,
    "server_image_embeds": 2,
    "server_uuids": 4,
    "server_stream": 1,
}


@pytest.fixture(scope="module")
def tiny_vl() -> Iterator[Served]:
    with (
        AsyncEngine(str(model_path()), max_model_len=2048) as engine,
        served(EnginePort.of(engine, str(model_path()))) as server,
    ):
        yield server


def test_every_example_is_listed_here() -> None:
    found = {path.stem for path in EXAMPLES.glob("server_*.py")}
    assert found == {*ANSWERS, "server_audio", "server_video"}


@pytest.mark.parametrize("name", ANSWERS)
def test_on_the_embedded_model(run: Run, name: str, tiny_vl: Served) -> None:
    lines = run(name, tiny_vl.url + "/v1")
    assert len(lines) >= ANSWERS[name]
    if name in ("server_uuids", "server_image_embeds"):
        assert len(set(lines)) == 1, "what is known by its name gives the same answer"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FileServer, list[str]]]:
    """Three pictures on loopback, and their addresses."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(("stop_sign", "cherry_blossom", "stop_sign")):
        ImageAsset(name).pil_image.rotate(90 * i).save(folder / f"{i}.jpg")
    with files_served(folder) as files:
        yield files, [f"{files.url}/{i}.jpg" for i in range(3)]


def each_once(pictures: tuple[FileServer, list[str]]) -> bool:
    """Whether the engine has fetched each picture once since it was last asked."""
    files, urls = pictures
    fetched = dict(files.fetched)
    files.fetched.clear()
    return fetched == {f"{i}.jpg": 1 for i in range(len(urls))}


def test_pictures_at_addresses(run: Run, pictures: tuple[FileServer, list[str]]) -> None:
    """As the seed's page has it: the server fetches what the client names."""
    options: dict[str, Any] = {"max_model_len": 2048, "allow_private_media_hosts": True}
    with (
        AsyncEngine(str(model_path()), **options) as engine,
        served(EnginePort.of(engine, str(model_path()))) as server,
    ):
        lines = run("server_images", server.url + "/v1", *pictures[1])
    assert len(lines) >= ANSWERS["server_images"]
    assert each_once(pictures)


def options_of(command: str) -> dict[str, Any]:
    """The engine's options in a shell's line that begins with ``sensorium serve``."""
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("sensorium", "serve")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return dict(gather(parser.parse_args(arguments), {}).engine)


def test_images_on_phi3v(run: Run, tmp_path: Path, pictures: tuple[FileServer, list[str]]) -> None:
    """The family for which the example is written, here with random weights; by URL, as there."""
    folder = make_phi3v(tmp_path)
    write_json(
        folder / "generation_config.json", {"max_new_tokens": 16}
    )  # random weights never end
    options = options_of(
        "sensorium serve microsoft/Phi-3.5-vision-instruct --runner generate"
        " --trust-remote-code --max-model-len 4096 --limit-mm-per-prompt '{\"image\":2}'"
    )
    assert options == {
        "runner": "generate",
        "trust_remote_code": True,
        "max_model_len": 4096,
        "limit_mm_per_prompt": {"image": 2},
    }
    with (
        AsyncEngine(str(folder), allow_private_media_hosts=True, **options) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        assert len(run("server_images", server.url + "/v1", *pictures[1])) >= 2
    assert each_once(pictures)


def test_a_clip_on_onevision(run: Run, tmp_path: Path) -> None:
    """By URL, which the server fetches, then by its uuid alone: the same answer."""
    frames = [Image.new("RGB", (60, 40), (40 * i, 200 - 40 * i, 90)) for i in range(5)]
    frames[0].save(
        tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=200, loop=0
    )
    options = options_of(
        "sensorium serve llava-hf/llava-onevision-qwen2-0.5b-ov-hf --runner generate"
        " --max-model-len 8192"
    )
    assert options == {"runner": "generate", "max_model_len": 8192}
    folder = str(make_onevision(tmp_path / "model", seed=2))
    with (
        files_served(tmp_path) as files,
        AsyncEngine(folder, allow_private_media_hosts=True, **options) as engine,
        served(EnginePort.of(engine, folder)) as server,
    ):
        lines = "\n".join(run("server_video", server.url + "/v1", files.url + "/clip.gif"))
    assert files.fetched == {"clip.gif": 1}
    first, second = lines.split("Chat completion output from video url:")[1:]
    assert first.strip() == second.strip()


def test_images_on_minicpmv(run: Run, tmp_path: Path) -> None:
    """Its placeholders lie in front, and an image of this size is sliced."""
    folder = make_minicpmv(tmp_path)
    write_json(folder / "generation_config.json", {"max_new_tokens": 16})
    options: dict[str, Any] = {"max_model_len": 512, "limit_mm_per_prompt": {"image": 2}}
    with (
        AsyncEngine(str(folder), trust_remote_code=True, **options) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        assert len(run("server_images", server.url + "/v1")) >= 2


@pytest.mark.parametrize("color", [[0, 0, 0], [128, 128, 128]])
def test_backgrounds_by_command(color: list[int], tmp_path: Path) -> None:
    """A transparent picture is answered as one of the command's colour."""
    command = (
        "sensorium serve llava-hf/llava-1.5-7b-hf"
        f""" --media-io-kwargs '{{"image": {{"rgba_background_color": {color}}}}}'"""
    )
    folder = make_llava(tmp_path, seed=2)
    clear = Image.new("RGBA", (56, 56), (250, 10, 200, 0))
    grey = Image.new("RGB", (56, 56), tuple(color))
    with LLM(folder, dtype="float32", max_model_len=128, **options_of(command)) as llm:
        prompts = [{"prompt": "<image>", "multi_modal_data": {"image": i}} for i in (clear, grey)]
        one, other = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=8, logprobs=1))
    assert one.outputs[0].token_ids == other.outputs[0].token_ids
    assert one.outputs[0].cumulative_logprob == pytest.approx(
        other.outputs[0].cumulative_logprob, abs=1e-4
    )


def test_embeddings_on_llava(run: Run, tmp_path: Path) -> None:
    """The family whose embeddings need nothing beside them, here with random weights."""
    folder = make_llava(tmp_path, seed=2)
    with (
        AsyncEngine(str(folder), max_model_len=512, chat_template=LLAVA_CHAT) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        assert run("server_image_embeds", server.url + "/v1", str(folder))


@pytest.mark.parametrize("make", [make_minicpmv, make_qwen2vl])
def test_embeddings_with_more(run: Run, make: Callable[[Path], Path], tmp_path: Path) -> None:
    """The families whose embeddings come with sizes or a grid, here with random weights."""
    folder = make(tmp_path)
    with (
        AsyncEngine(str(folder), trust_remote_code=True, max_model_len=512) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        assert run("server_image_embeds", server.url + "/v1", str(folder))


LLAVA_CHAT = (
    "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}ASSISTANT:"
)


def test_sound(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base64, which the client has fetched, a URL that the server fetches, and a uuid alone."""
    clip = AudioAsset("winning_call").get_local_path()
    model = str(make_ultravox(tmp_path))
    options: dict[str, Any] = {"max_model_len": 1024, "allow_private_media_hosts": True}
    with (
        files_served(clip.parent) as files,
        AsyncEngine(model, **options) as engine,
        served(EnginePort.of(engine, model)) as server,
    ):
        monkeypatch.setenv("SENSORIUM_ASSETS_URL", files.url)
        text = "\n".join(run("server_audio", server.url + "/v1"))
    assert text.count("Chat completion output from") == 3
    assert files.fetched == files.fetched_by_others == {clip.name: 1}
