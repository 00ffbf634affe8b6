"""What a caller may give as embeddings, and the sentence for everything else."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch

from sensorium.errors import LimitError, MediaError, RequestError
from sensorium.media.embeds import Embeds, check_embeds
from sensorium.types import GivenEmbeds

ROWS = torch.randn(5, 8)
NAN, INF = float("nan"), float("inf")


def base64_of(tensor: torch.Tensor) -> str:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def checked(rows: Any, fields: dict[str, Any] | None = None, **changes: Any) -> Embeds:
    options: dict[str, Any] = {"width": 8, "field_names": tuple(fields or ()), "max_bytes": 2**20}
    return check_embeds(GivenEmbeds(rows, fields or {}), **{**options, **changes})


@pytest.mark.parametrize(
    "rows",
    [ROWS, ROWS[None], ROWS.numpy(), ROWS.double(), ROWS.clone().requires_grad_(),
     ROWS.t().contiguous().t(), ROWS.numpy().astype(">f4")],
    ids=["tensor", "one item", "array", "double", "gradient", "strided", "big endian"],
)  # fmt: skip
def test_forms(rows: Any) -> None:
    embeds = checked(rows)
    assert torch.equal(embeds.rows, ROWS)
    assert embeds.rows.is_contiguous()
    assert not embeds.rows.requires_grad
    assert embeds.num_bytes == 5 * 8 * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype: torch.dtype) -> None:
    embeds = checked(ROWS.to(dtype))
    assert embeds.rows.dtype == dtype
    assert torch.equal(embeds.as_dtype(torch.float32), ROWS.to(dtype).float())


def test_fields_become_integers() -> None:
    for value in (torch.tensor([1, 2, 3], dtype=torch.int32), np.array([1, 2, 3]), [1, 2, 3]):
        grid = checked(ROWS, {"grid": value}).fields["grid"]
        assert grid.dtype == torch.int64
        assert grid.tolist() == [1, 2, 3]
    for value in (torch.tensor([[1, 2, 3]]), base64_of(torch.tensor([[1, 2, 3]]))):
        grid = checked(ROWS, {"grid": value}).fields["grid"]
        assert grid.tolist() == [1, 2, 3], "an item's own, with the dimension for items"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.int(), "embeddings are int32; they must be floating-point"),
        (ROWS.bool(), "embeddings are bool"),
        (ROWS.to(torch.complex64), "embeddings are complex64"),
        (ROWS[0], r"shape \(8,\); this model takes \(tokens, 8\)"),
        (ROWS[:, :7], r"shape \(5, 7\)"),
        (ROWS[:0], r"shape \(0, 8\)"),
        (torch.randn(2, 5, 8), r"shape \(2, 5, 8\)"),
        (ROWS.to_sparse(), "must be dense"),
        (ROWS.to("meta"), "must be dense"),
        (
            torch.where(ROWS > 1, NAN, ROWS.clamp(max=1)).index_fill(0, torch.tensor(0), NAN),
            "not f",
        ),
        (ROWS.index_fill(1, torch.tensor(3), INF), "not finite"),
        (ROWS.double().index_fill(1, torch.tensor(3), 1e300), "not finite"),
        (np.array([["a"]]), "an array of <U1"),
        ([[0.5] * 8], "is a list; allowed are a tensor, an array, or one"),
        (object(), "is a object"),
        ("no base64!", "base64"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_rows_that_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        checked(rows)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (torch.ones(3), "grid is float32; it must hold integers"),
        (torch.ones(3).bool(), "grid is bool"),
        (torch.ones(2000, dtype=torch.int64), "grid holds 2000 numbers"),
        ([1, 2.5], "grid is a list"),
        ([], "grid is a list"),
        ([2**70], "grid is a list"),
    ],
)
def test_fields_that_are_refused(field: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        checked(ROWS, {"grid": field})


def test_missing_and_unknown_fields() -> None:
    with pytest.raises(RequestError, match="came without grid; this model places them by grid"):
        checked(ROWS, field_names=("grid",))
    with pytest.raises(RequestError, match="came with sizes; this model takes only grid beside"):
        checked(ROWS, {"grid": [1], "sizes": [1]}, field_names=("grid",))
    with pytest.raises(RequestError, match="came with sizes; this model takes nothing beside"):
        checked(ROWS, {"sizes": [1]}, field_names=())


def test_too_large_for_the_engines_dtype() -> None:
    with pytest.raises(MediaError, match="too large for the engine's float16"):
        checked(torch.full((1, 8), 1e30)).as_dtype(torch.float16)


def test_a_size_limit_on_text() -> None:
    with pytest.raises(LimitError):
        checked("A" * 4000, max_bytes=1000)


def test_the_digest_tells_all_apart() -> None:
    variants = [
        checked(ROWS),
        checked(ROWS.half()),
        checked(ROWS.bfloat16()),
        checked(ROWS + torch.eye(5, 8) * 1e-3),
        checked(ROWS.reshape(10, 4), width=4),
        checked(ROWS, {"grid": [1, 2]}),
        checked(ROWS, {"grid": [2, 1]}),
        checked(ROWS, {"size": [1, 2]}),
    ]
    assert len({embeds.digest() for embeds in variants}) == len(variants)
    assert checked(ROWS.numpy(), {"grid": np.array([1, 2])}).digest() == variants[5].digest()
