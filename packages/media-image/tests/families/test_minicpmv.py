"""MiniCPM-V-2.6: pixels against Pillow, embeddings against the reference, prompts and options."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import minicpmv_reference as published
import numpy as np
import pytest
import torch
from family_helpers import (
    load_tower,
    loaded,
    model_context,
    one_axis_resizes,
    open_folder,
    random_image,
)
from minicpmv_reference import MiniCPMVReference
from PIL import Image
from tiny_checkpoints import make_minicpmv

from sensorium import LLM, SamplingParams
from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.tokenizer import Tokenizer
from sensorium.types import MediaShape
from sensorium_media_image.families.minicpmv import MiniCPMVFamily, MiniCPMVImages
from sensorium_media_image.towers.minicpmv import (
    MiniCPMVTower,
    Resampler,
    position_ids,
    sincos_positions,
)

#: (height, width): sliced in rows, in columns, in both; whole, shrunk and enlarged; a strip.
SIZES = [(90, 60), (60, 150), (200, 200), (50, 40), (9, 7), (6, 400), (56, 56), (57, 56)]
SHORT = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
TAG = "(<image>./</image>)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_minicpmv(tmp_path_factory.mktemp("minicpmv"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> MiniCPMVReference:
    return MiniCPMVReference(folder)


@pytest.fixture(scope="module")
def tower(folder: Path) -> MiniCPMVTower:
    tower = load_tower(MiniCPMVFamily(), open_folder(folder))
    assert isinstance(tower, MiniCPMVTower)
    return tower


@pytest.fixture(scope="module")
def adapter(folder: Path) -> MiniCPMVImages:
    return adapter_of(folder)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 512}
    with LLM(folder, trust_remote_code=True, engine_process=False, **options) as llm:
        yield llm


def adapter_of(folder: Path, processor: dict[str, Any] | None = None) -> MiniCPMVImages:
    checkpoint = open_folder(folder)
    context = model_context(
        MiniCPMVFamily(), checkpoint.config, {**checkpoint.processor, **(processor or {})}
    )
    return MiniCPMVImages(replace(context, tokenizer=Tokenizer.load(folder)))


def processed(adapter: MiniCPMVImages, pixels: Any, most: int | None = None) -> dict[str, Any]:
    options = adapter.options({"max_slice_nums": most})
    plan = adapter.plan(MediaShape(pixels.shape[:2]), options)
    return dict(adapter.process(loaded(pixels), plan, options)["tower"])


def views(item: dict[str, Any]) -> list[torch.Tensor]:
    return [*item["view"], *item.get("slices", ())]


# --- pixels -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [1, 4, 9])
def test_pixels_are_pillows(adapter: MiniCPMVImages, size: tuple[int, int], most: int) -> None:
    """View and slices by rows: two levels in three percent of the values at most."""
    pixels = random_image(*size, seed=1)
    ours = views(processed(adapter, pixels, most))
    with one_axis_resizes():
        theirs = [np.asarray(view) for view in published.slices(Image.fromarray(pixels), 56, most)]
    assert [tuple(view.shape) for view in ours] == [view.shape for view in theirs]
    for mine, view in zip(ours, theirs, strict=True):
        difference = np.abs(mine.numpy().astype(int) - view)
        assert difference.max() <= 2
        assert np.mean(difference > 0) <= 0.03


# --- the tower --------------------------------------------------------------------------


def test_embeddings_are_the_references(
    adapter: MiniCPMVImages, reference: MiniCPMVReference, tower: MiniCPMVTower
) -> None:
    """All sizes and numbers of slices in one call, then each item alone."""
    items = [processed(adapter, random_image(*size, seed=2)) for size in SIZES]
    for item, output in zip(items, tower(items), strict=True):
        expected = torch.cat(
            [reference.embeds_of(Image.fromarray(view.numpy())) for view in views(item)]
        )
        torch.testing.assert_close(output.embeds, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tower([item])[0].embeds, output.embeds, rtol=1e-4, atol=1e-4)


def test_no_items_no_embeddings(tower: MiniCPMVTower) -> None:
    assert tower([]) == []


@pytest.mark.parametrize(
    ("count", "places"),
    [(25, [15]), (49, [14, 35]), (50, [15, 30]), (55, [11, 22, 33]), (77, [55])],
)
def test_positions_fall_beside_borders_as_published(count: int, places: list[int]) -> None:
    """There the published float32 arange and k / n choose different rows of the table."""
    ours = position_ids(count, 1, 70) // 70
    borders = torch.arange(1 / 70, 1.0, 1 / 70)
    quotients = torch.tensor([k / count for k in range(count)])
    other = torch.bucketize(quotients, borders, right=True)
    assert (ours != other).nonzero().flatten().tolist() == places
    assert torch.equal(position_ids(count, 3, 70), published.position_ids(count, 3))


@pytest.mark.parametrize("grid", [(1, 1), (32, 32), (25, 40), (70, 14), (3, 100)])
def test_positions_of_grids(grid: tuple[int, int]) -> None:
    assert torch.equal(position_ids(*grid, 70), published.position_ids(*grid))
    ours = sincos_positions(*grid, 128)
    torch.testing.assert_close(ours, published.sincos(*grid, 128), rtol=0, atol=1e-5)


def test_the_column_is_in_the_first_half_of_the_channels() -> None:
    positions = sincos_positions(2, 3, 16).view(2, 3, 16)
    assert torch.equal(positions[0, :, :8], positions[1, :, :8])
    assert torch.equal(positions[:, 0, 8:], positions[:, 2, 8:])
    assert not torch.equal(positions[0, 0, :8], positions[0, 1, :8])


def test_values_carry_no_positions(tower: MiniCPMVTower) -> None:
    """Of patches that are all alike every query gets the same, whatever the grid."""
    resampler = tower.resampler
    assert isinstance(resampler, Resampler)
    row = torch.randn(1, 1, 128, generator=torch.Generator().manual_seed(1))
    wide, tall = (resampler(row.expand(1, 12, -1), grid) for grid in ((3, 4), (6, 2)))
    torch.testing.assert_close(wide, tall, rtol=1e-5, atol=1e-5)


# --- prompts ----------------------------------------------------------------------------


def ids_of(llm: LLM, prompt: str, sizes: list[tuple[int, int]], **more: Any) -> list[int]:
    images = [random_image(*size, seed=0) for size in sizes]
    given = {"prompt": prompt, "multi_modal_data": {"image": images}, **more}
    return list(llm.generate(given, SHORT, use_tqdm=False)[0].prompt_token_ids)


@pytest.mark.parametrize(
    ("prompt", "sizes"),
    [
        (f"what is {TAG}?", [(60, 150)]),
        (f"{TAG}\n{TAG} and {TAG} differ", [(90, 60), (50, 40), (200, 200)]),
        ("no image", []),
        (TAG * 12, [(20, 20)] * 12),
    ],
)
def test_ids_are_those_of_the_published_text(
    llm: LLM, reference: MiniCPMVReference, prompt: str, sizes: list[tuple[int, int]]
) -> None:
    expected = reference.token_ids(prompt, [(width, height) for height, width in sizes])
    assert ids_of(llm, prompt, sizes) == expected


def test_layouts_of_many_sizes(adapter: MiniCPMVImages, reference: MiniCPMVReference) -> None:
    """The tokens of an image are those of the text that the published processor writes for it."""
    draw = random.Random(7)
    written: dict[tuple[int, int] | None, list[int]] = {}
    unknown = reference.tokenizer.convert_tokens_to_ids("<unk>")
    for _ in range(5000):
        height, width = (round(2 ** draw.uniform(0, 10)) for _ in range(2))
        if max(height, width) > 200 * min(height, width):
            continue
        grid = published.sliced_grid(width, height, reference.scale, 9)
        if grid not in written:
            text = published.placeholder(0, grid, reference.queries, use_id=False)
            written[grid] = reference.tokenizer(text, add_special_tokens=False).input_ids
        plan = adapter.plan(MediaShape((height, width)), {"max_slice_nums": 9})
        assert list(plan.token_ids) == written[grid], (height, width)
        assert plan.is_embed == bytes(token == unknown for token in written[grid])
        assert plan.num_tokens == sum(plan.is_embed)
    assert len(written) > 20, "every grid of up to nine slices"


def test_a_users_tokens_take_no_images_place(llm: LLM) -> None:
    """Rows stand where the item was put, not at whatever <unk> the text holds."""
    image = random_image(40, 50, seed=1)
    prompt = f"<image><unk><unk><unk><unk></image> {TAG}"
    given = {"prompt": prompt, "multi_modal_data": {"image": image}}
    (output,) = llm.generate(given, SHORT, use_tqdm=False)
    unknown = llm.get_tokenizer().token_to_id("<unk>")
    assert list(output.prompt_token_ids).count(unknown) == 8


def test_max_slice_nums_of_a_request(llm: LLM) -> None:
    by_file = ids_of(llm, TAG, [(200, 200)])
    whole = ids_of(llm, TAG, [(200, 200)], mm_processor_kwargs={"max_slice_nums": 1})
    unknown = llm.get_tokenizer().token_to_id("<unk>")
    assert (by_file.count(unknown), whole.count(unknown)) == (20, 4)
    for wrong in (0, 65, True, "4"):
        with pytest.raises(RequestError, match="max_slice_nums is"):
            ids_of(llm, TAG, [(20, 20)], mm_processor_kwargs={"max_slice_nums": wrong})


def test_chat_puts_the_images_in_front(llm: LLM, reference: MiniCPMVReference) -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_pil", "image_pil": Image.fromarray(random_image(60, 150, seed=0))},
    ]
    (output,) = llm.chat([{"role": "user", "content": parts}], SHORT, use_tqdm=False)
    text = f"<|im_start|>user\n{TAG}\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    assert output.prompt == text
    assert list(output.prompt_token_ids) == reference.token_ids(text, [(150, 60)])


def test_strips_are_refused(adapter: MiniCPMVImages) -> None:
    with pytest.raises(MediaError, match="200"):
        adapter.plan(MediaShape((1, 201)), adapter.options({}))


def test_ids_are_left_out_where_the_checkpoint_says_so(folder: Path, llm: LLM) -> None:
    path = folder.with_name("without_ids")
    make_minicpmv(path)
    file = path / "preprocessor_config.json"
    file.write_text(file.read_text().replace('"use_image_id": true', '"use_image_id": false'))
    assert open_folder(path).processor["use_image_id"] is False
    with LLM(path, device="cpu", dtype="float32", max_model_len=128) as without:
        ids = ids_of(without, TAG, [(20, 20)])
    assert ids == ids_of(llm, TAG, [(20, 20)])[3:]


# --- embeddings in place of images ------------------------------------------------------


@pytest.mark.parametrize("spelling", ["tuples", "lists", "tensor", "array"])
def test_embeddings_with_sizes_stand_for_their_images(
    llm: LLM, reference: MiniCPMVReference, spelling: str
) -> None:
    images = [Image.fromarray(random_image(60, 90, seed=i)) for i in range(2)]
    embeds = torch.stack([reference.embeds(image) for image in images])
    sizes: Any = [image.size for image in images]
    if spelling != "tuples":
        sizes = [list(size) for size in sizes]
    if spelling == "tensor":
        sizes = torch.tensor(sizes)
    if spelling == "array":
        sizes = np.array(sizes)
    long = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    given = [
        {"prompt": f"{TAG} {TAG}:", "multi_modal_data": {"image": value}}
        for value in (images, {"image_embeds": embeds, "image_sizes": sizes})
    ]
    by_image, by_embeds = llm.generate(given, long, use_tqdm=False)
    assert by_image.prompt_token_ids == by_embeds.prompt_token_ids
    assert by_image.outputs[0].token_ids == by_embeds.outputs[0].token_ids


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (torch.tensor([[90, 60]]), r"takes 12 embedding rows; 4 were given"),
        (torch.tensor([[0, 60]]), r"must be \[width, height\]"),
        (torch.tensor([[90000, 60]]), "200"),
        (None, "image_sizes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(llm: LLM, sizes: Any, message: str) -> None:
    data = {"image_embeds": torch.zeros(1, 4, 128), "image_sizes": sizes}
    with pytest.raises(RequestError, match=message):
        llm.generate({"prompt": TAG, "multi_modal_data": {"image": data}}, SHORT, use_tqdm=False)


# --- what isn't built -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("slice_mode", False),
        ("patch_size", 16),
        ("image_feature_size", 64),
        ("norm_mean", [0.4, 0.4, 0.4]),
    ],
)
def test_other_pixels_are_refused_by_name(folder: Path, entry: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=entry):
        adapter_of(folder, {entry: value})


def test_other_versions_are_refused(folder: Path) -> None:
    config = {**open_folder(folder).config, "version": 2.5}
    with pytest.raises(ConfigError, match=r"version is 2\.5"):
        MiniCPMVFamily().decoder_config(config)
