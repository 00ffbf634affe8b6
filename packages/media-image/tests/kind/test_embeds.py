"""Pre-computed embeddings: every form of compat's row becomes one entry an image, or a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sensorium.errors import MediaError
from sensorium.types import GivenEmbeds, ValueSource
from sensorium_media_image.kind import ImageKind

KIND = ImageKind({})
ROWS = torch.randn(3, 5, 8)


def given(value: Any) -> list[GivenEmbeds | None]:
    """The embeddings of each item that ``split`` makes; None for items without any."""
    items = KIND.split(value)
    assert [(item.kind, item.index) for item in items] == [("image", i) for i in range(len(items))]
    assert not any(item.sources for item in items)
    return [item.embeds for item in items]


def same(entry: GivenEmbeds | None, rows: torch.Tensor) -> bool:
    assert entry is not None
    return torch.equal(torch.as_tensor(entry.rows).reshape(rows.shape), rows)


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        ROWS.numpy().astype(np.float32).repeat(2, axis=0)[::2],
        list(ROWS),
        [row[None] for row in ROWS],
        [row.numpy() for row in ROWS],
        {"image_embeds": ROWS},
        {"image_embeds": list(ROWS)},
        [{"image_embeds": row} for row in ROWS],
        [{"image_embeds": row[None]} for row in ROWS],
    ],
    ids=lambda value: type(value).__name__,
)
def test_several_images(value: Any) -> None:
    if isinstance(value, np.ndarray):  # three images of three channels would be a picture
        value = torch.from_numpy(value)
    entries = given(value)
    assert len(entries) == 3
    assert all(same(entry, row) for entry, row in zip(entries, ROWS, strict=True))


def test_none_and_pictures_among_embeddings() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    items = KIND.split([None, ROWS[0], picture])
    assert [item.has_data for item in items] == [False, True, True]
    assert items[1].embeds is not None
    assert items[2].sources == (ValueSource(picture),)


def test_fields_go_to_their_items() -> None:
    grids = torch.tensor([[1, 2, 4], [1, 4, 4], [1, 2, 2]])
    for field in (
        grids,
        grids.numpy(),
        grids.tolist(),
        list(grids),
        [tuple(g) for g in grids.tolist()],
    ):
        entries = given({"image_embeds": list(ROWS), "image_grid_thw": field})
        found = [entry.fields["image_grid_thw"] for entry in entries if entry]
        assert np.array_equal(np.array([np.asarray(grid) for grid in found]), grids.numpy())
    (entry,) = given({"image_embeds": ROWS[:1], "image_sizes": [(30, 40)]})
    assert entry is not None
    assert list(entry.fields["image_sizes"]) == [30, 40]
    (entry,) = given({"image_embeds": ROWS[:1], "image_grid_thw": torch.tensor([1, 2, 4])})
    assert entry is not None
    assert list(entry.fields) == ["image_grid_thw"]


def test_rows_behind_one_another_are_shared_out_by_the_grids() -> None:
    grids = torch.tensor([[1, 4, 4], [1, 2, 4], [1, 4, 6]])
    rows = torch.randn(4 + 2 + 6, 8)
    entries = given({"image_embeds": rows, "image_grid_thw": grids})
    parts = torch.split(rows, [4, 2, 6])
    assert all(same(entry, part) for entry, part in zip(entries, parts, strict=True))
    (entry,) = given({"image_embeds": rows, "image_grid_thw": grids[:1]})
    assert same(entry, rows), "one image's rows are the family's to count"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"image_embeds": ROWS, "grid": 1}, "come with 'grid'; allowed are image_embeds, image_"),
        ({"image_embeds": ROWS, "image_sizes": [(1, 2)]}, "for 1 images, image_embeds for 3"),
        ({"image_embeds": ROWS, "image_sizes": [(1, 2, 3)] * 3}, "2 integers for each image"),
        ({"image_embeds": ROWS, "image_sizes": [("1", 2)] * 3}, "2 integers for each image"),
        ({"image_embeds": ROWS, "image_sizes": {}}, "image_sizes is a dict"),
        ({"image_embeds": ROWS, "image_grid_thw": torch.ones(3, 2)}, r"shape \(3, 2\)"),
        ({"image_embeds": ROWS[0, 0]}, r"a Tensor of shape \(8,\)"),
        ({"image_embeds": 3}, "image_embeds is a int"),
        ({"image_embeds": ROWS[0], "image_grid_thw": [(1, 2, 2), (1, 2, 2)]}, "5 rows, which the"),
        ({"image_embeds": ROWS[0], "image_grid_thw": [(1, 0, 2), (1, 2, 2)]}, "5 rows, which the"),
        ({"image_embeds": ROWS[0, :0], "image_grid_thw": [(1, 2, 2)] * 2}, "0 rows, which the"),
        (
            {"image_embeds": ROWS[0], "image_grid_thw": [(2**40, 2**40, 1), (1, 2, 2)]},
            "5 rows, which the",
        ),
        ([{"image_embeds": ROWS}], "image 0: the part image_embeds holds 3 images"),
    ],
)
def test_what_cannot_be_split(value: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        KIND.split(value)


# --- chat parts ------------------------------------------------------------------------


def test_parts() -> None:
    for value in (ROWS[0], ROWS[:1], ROWS[0].numpy(), "AAAA", None):
        item = KIND.parse_part("image_embeds", value)
        assert item.embeds is not None
        assert item.embeds.rows is value
        assert item.has_data == (value is not None)
    grid = torch.tensor([[1, 2, 4]])
    item = KIND.parse_part("image_embeds", {"image_embeds": ROWS[0], "image_grid_thw": grid})
    assert item.embeds is not None
    assert item.embeds.fields["image_grid_thw"].tolist() == [1, 2, 4]
    item = KIND.parse_part("image_embeds", {"image_embeds": "AAAA", "image_grid_thw": "BBBB"})
    assert item.embeds == GivenEmbeds("AAAA", {"image_grid_thw": "BBBB"})
    with pytest.raises(MediaError, match="holds 3 images; it must hold one"):
        KIND.parse_part("image_embeds", {"image_embeds": ROWS})


@pytest.mark.parametrize(
    ("shape", "scale", "is_embedding"),
    [
        ((1, 56, 64), 1, True),  # one item of the model's width
        ((3, 56, 64), 2, True),  # three, whose numbers are no picture's
        ((3, 56, 64), 1, False),  # a picture that is as wide as the model
        ((1, 56, 40), 1, False),  # grey, 0 to 1
        ((1, 56, 40), 2, False),
        ((3, 56, 40), 2, False),  # normalised
        ((5, 56, 40), 1, True),  # no picture, whatever the width
    ],
)
@pytest.mark.parametrize("in_a_list", [False, True])
def test_the_models_width_tells_embeddings_from_pictures(
    shape: tuple[int, ...], scale: int, is_embedding: bool, in_a_list: bool
) -> None:
    kind = ImageKind({})
    kind.expect_embeddings(64)
    tensor = torch.rand(shape) if scale == 1 else torch.rand(shape) * 2 - 1
    items = kind.split([tensor] if in_a_list else tensor)
    assert all((item.embeds is not None) == is_embedding for item in items)
    assert len(items) == (shape[0] if is_embedding and not in_a_list else 1)
    if not is_embedding and scale == 2:
        with pytest.raises(MediaError, match=r"not normalised; .*\(items, tokens, 64\)"):
            kind.load(items[0].sources)
