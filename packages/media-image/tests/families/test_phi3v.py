"""Phi-3.5-vision: pixels against Pillow, embeddings against the reference, prompts, options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_helpers import load_tower, loaded, one_axis_resizes, open_folder, random_image
from phi3v_reference import Phi3VReference, hd_transform
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_checkpoints import PHI3V_IDS, make_phi3v

from sensorium import LLM, SamplingParams
from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.plugins import ModelContext
from sensorium.tokenizer import Tokenizer
from sensorium.types import MediaShape
from sensorium_media_image.families.phi3v import Phi3VFamily, Phi3VImages
from sensorium_media_image.towers.phi3v import Phi3VTower

#: (height, width): landscape, portrait, square, enlarged, strips, and one that fills its tiles.
SIZES = [(90, 130), (130, 90), (200, 200), (9, 7), (6, 400), (400, 6), (56, 112), (300, 301)]
SHORT = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phi3v(tmp_path_factory.mktemp("phi3v"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Phi3VReference:
    return Phi3VReference(folder)


@pytest.fixture(scope="module")
def tower(folder: Path) -> Phi3VTower:
    tower = load_tower(Phi3VFamily(), open_folder(folder))
    assert isinstance(tower, Phi3VTower)
    return tower


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Phi3VImages:
    return adapter_of(folder)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 512}
    with LLM(folder, trust_remote_code=True, engine_process=False, **options) as llm:
        yield llm


def adapter_of(folder: Path, **config: Any) -> Phi3VImages:
    checkpoint = open_folder(folder)
    whole = {**checkpoint.config, **config}
    return Phi3VImages(
        ModelContext(
            architecture="Phi3VForCausalLM",
            config=whole,
            processor=checkpoint.processor,
            decoder=Phi3VFamily().decoder_config(whole),
            tokenizer=Tokenizer.load(folder),
        )
    )


def processed(adapter: Phi3VImages, pixels: Any, num_crops: int | None = None) -> torch.Tensor:
    options = adapter.options({} if num_crops is None else {"num_crops": num_crops})
    plan = adapter.plan(MediaShape(pixels.shape[:2]), options)
    return adapter.process(loaded(pixels), plan, options)["tower"]["pixels"]


# --- pixels -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_pixels_are_pillows(adapter: Phi3VImages, size: tuple[int, int], num_crops: int) -> None:
    """Also where the published code transposes: a level in three percent of the values at most."""
    pixels = random_image(*size, seed=1)
    if max(size) > 56 * num_crops * min(size):
        with pytest.raises(MediaError, match="nothing would be left"):
            processed(adapter, pixels, num_crops)
        return
    ours = processed(adapter, pixels, num_crops).numpy()
    with one_axis_resizes():
        padded = np.asarray(hd_transform(Image.fromarray(pixels), 56, num_crops))
    difference = np.abs(ours.astype(int) - padded)
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= 0.03


def test_white_fills_the_tiles_half_above_and_half_below(adapter: Phi3VImages) -> None:
    pixels = np.zeros((31, 60, 3), dtype=np.uint8)  # 112 × 57: 55 rows to fill
    filled = processed(adapter, pixels, 4)
    assert filled.shape == (112, 112, 3)
    black = (filled == 0).all(-1).all(-1).nonzero().flatten().tolist()
    assert (black[0], black[-1]) == (27, 27 + 57 - 1)
    turned = processed(adapter, pixels.transpose(1, 0, 2).copy(), 4)
    assert torch.equal(turned, filled.transpose(0, 1))


# --- the tower --------------------------------------------------------------------------


def test_embeddings_are_the_references(
    adapter: Phi3VImages, reference: Phi3VReference, tower: Phi3VTower
) -> None:
    """All sizes in one batch, then each alone."""
    items = [{"pixels": processed(adapter, random_image(*size, seed=2))} for size in SIZES]
    together = tower(items)
    for item, output in zip(items, together, strict=True):
        expected = reference.embeds_of(Image.fromarray(item["pixels"].numpy()))
        torch.testing.assert_close(output.embeds, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tower([item])[0].embeds, output.embeds, rtol=1e-4, atol=1e-4)


def test_the_global_view_is_the_published_one(tower: Phi3VTower) -> None:
    """Of normalised values; bicubic overshoots at edges, and rounding would take that away."""
    pixels = torch.from_numpy(random_image(112, 168, 3))
    pixels[:, 56:] = 255
    mean, std = tower.normalisation.constants(torch.device("cpu"))
    values = (pixels - mean) / std
    planes = values.permute(2, 0, 1)[None]
    published = torch.nn.functional.interpolate(planes, (56, 56), mode="bicubic")
    patch = tower.tower.clip.patch_size
    expected = torch.nn.functional.unfold(published, patch, stride=patch).transpose(1, 2)
    view, tiles = tower.patches(pixels)
    assert len(tiles) == 2 * 3
    torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)
    assert view.max() > values.max()


def test_no_items_no_embeddings(tower: Phi3VTower) -> None:
    assert tower([]) == []


# --- prompts ----------------------------------------------------------------------------


def ids_of(llm: LLM, prompt: str, count: int, **more: Any) -> list[int]:
    images = [random_image(60 + 30 * i, 90, seed=i) for i in range(count)]
    given = {"prompt": prompt, "multi_modal_data": {"image": images}, **more}
    return list(llm.generate(given, SHORT, use_tqdm=False)[0].prompt_token_ids)


@pytest.mark.parametrize(
    "prompt",
    [
        "<|user|>\n<|image_1|>\n<|image_2|>\nWhat is the content of each image?<|end|>\n",
        "<|image_2|> after <|image_1|>",
        "<|image_1|><|image_2|>",
        "the end: <|image_1|> and <|image_2|>",
    ],
)
def test_text_stands_where_the_published_processor_puts_it(
    llm: LLM, reference: Phi3VReference, prompt: str
) -> None:
    """It writes -i for picture i and tokenizes each piece with specials; here stands one id."""
    images = [Image.fromarray(random_image(60 + 30 * i, 90, seed=i)) for i in range(2)]
    lengths = [len(reference.embeds(image)) for image in images]
    published = reference.token_ids(prompt, lengths)
    assert published.count(1) == 3
    image_id = PHI3V_IDS["<|image|>"]
    assert ids_of(llm, prompt, 2) == [image_id if i < 0 else i for i in published]


def test_text_alone_is_tokenized_whole(llm: LLM, reference: Phi3VReference) -> None:
    ids = llm.generate("no picture at all", SHORT, use_tqdm=False)[0].prompt_token_ids
    assert list(ids) == reference.token_ids("no picture at all", [])


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ("<|image_1|> and <|image_3|>", 2),
        ("<|image_2|>", 1),
        ("<|image_1|> and <|image_1|>", 1),
        ("<|image_1|> and <|image_1|>", 2),
        ("<|image_1|> <|image_7|>", 1),
        ("<|image_1|>", 0),
        ("none", 1),
    ],
)
def test_gaps_and_repetitions_are_refused(llm: LLM, prompt: str, count: int) -> None:
    with pytest.raises(RequestError, match=r"<\|image_1\|>"):
        ids_of(llm, prompt, count)


def test_prompts_as_ids(llm: LLM) -> None:
    """One token an item, or what a processor has expanded it to."""
    image_id = PHI3V_IDS["<|image|>"]
    image = random_image(90, 120, seed=4)
    media = {"multi_modal_data": {"image": image}}
    (text,) = llm.generate({"prompt": "a <|image_1|>", **media}, SHORT, use_tqdm=False)
    whole = list(text.prompt_token_ids)
    first = whole.index(image_id)
    short = [*whole[: first + 1], *whole[first + whole.count(image_id) :]]
    for ids in (whole, short):
        (given,) = llm.generate({"prompt_token_ids": ids, **media}, SHORT, use_tqdm=False)
        assert list(given.prompt_token_ids) == whole
        assert given.outputs[0].token_ids == text.outputs[0].token_ids


def test_num_crops_of_a_request(llm: LLM) -> None:
    prompt, image_id = "<|image_1|>", PHI3V_IDS["<|image|>"]
    by_file = ids_of(llm, prompt, 1)
    finer = ids_of(llm, prompt, 1, mm_processor_kwargs={"num_crops": 16})
    assert by_file.count(image_id) == (2 * 2 + 1) * 4 + 1 + 3 * 2  # 60×90 in 2×2 tiles of 2×2 rows
    assert finer.count(image_id) == (3 * 4 + 1) * 4 + 1 + 4 * 2
    for wrong in (0, 65, True, "4", 2.0):
        with pytest.raises(RequestError, match="num_crops is"):
            ids_of(llm, prompt, 1, mm_processor_kwargs={"num_crops": wrong})


def test_chat_numbers_the_items_and_puts_them_in_front(llm: LLM, reference: Any) -> None:
    parts = [
        {"type": "text", "text": "What are these?"},
        *({"type": "image_pil", "image_pil": Image.fromarray(random_image(60, 90, seed=i))}
          for i in range(2)),
    ]  # fmt: skip
    (output,) = llm.chat([{"role": "user", "content": parts}], SHORT, use_tqdm=False)
    assert output.prompt == (
        "<|user|>\n<|image_1|>\n<|image_2|>\nWhat are these?<|end|>\n<|assistant|>\n"
    )
    written = reference.token_ids(output.prompt, [27, 27])
    image_id = PHI3V_IDS["<|image|>"]
    assert list(output.prompt_token_ids) == [image_id if i < 0 else i for i in written]


def test_placeholders_in_a_users_text_stay_text(llm: LLM) -> None:
    (output,) = llm.chat(
        [{"role": "user", "content": "what does <|image_1|> mean?"}], SHORT, use_tqdm=False
    )
    assert PHI3V_IDS["<|image|>"] not in output.prompt_token_ids


# --- embeddings in place of pictures ----------------------------------------------------


def test_embeddings_stand_for_their_picture(llm: LLM, reference: Phi3VReference) -> None:
    image = random_image(90, 130, seed=3)
    embeds = reference.embeds_of(hd_transform(Image.fromarray(image), 56, 4))
    long = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    given = [
        {"prompt": "see <|image_1|>:", "multi_modal_data": {"image": value}}
        for value in (image, embeds[None])
    ]
    by_image, by_embeds = llm.generate(given, long, use_tqdm=False)
    assert by_image.prompt_token_ids == by_embeds.prompt_token_ids
    assert by_image.outputs[0].token_ids == by_embeds.outputs[0].token_ids


def test_embeddings_of_no_number_of_tiles_are_refused(llm: LLM) -> None:
    given = {"prompt": "<|image_1|>", "multi_modal_data": {"image": torch.zeros(1, 16, 64)}}
    with pytest.raises(RequestError, match=r"have 16 rows; .* num_crops, which is 4"):
        llm.generate(given, SHORT, use_tqdm=False)


# --- what isn't built -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "entry", "value"),
    [
        ("embd_layer", "hd_transform_order", "glb_sub"),
        ("embd_layer", "use_hd_transform", False),
        ("embd_layer", "with_learnable_separator", False),
        ("embd_layer", "projection_cls", "linear"),
        ("img_processor", "name", "siglip"),
        ("img_processor", "layer_idx", -1),
        ("img_processor", "image_size", 60),
        ("img_processor", "num_img_tokens", 144),
    ],
)
def test_other_towers_are_refused_by_name(
    folder: Path, section: str, entry: str, value: Any
) -> None:
    config = {section: {**open_folder(folder).config[section], entry: value}}
    with pytest.raises(ConfigError, match=entry):
        adapter_of(folder, **config)


def test_the_towers_copy_of_the_embedding_is_known(tmp_path: Path) -> None:
    """Files that hold one matrix under both of its names load."""
    folder = make_phi3v(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["model.vision_embed_tokens.wte.weight"] = embedding.clone()
    save_file(tensors, folder / "model.safetensors")
    with LLM(folder, device="cpu", dtype="float32", max_model_len=64) as llm:
        assert llm.generate("a", SHORT, use_tqdm=False)[0].outputs[0].token_ids
