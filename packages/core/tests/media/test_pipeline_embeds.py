"""Embeddings go the pipeline's way too: looked up by uuid or content, checked, planned, kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from sensorium.errors import CacheMissError, LimitError, MediaError, PluginError, RequestError
from sensorium.types import PRECOMPUTED, GivenEmbeds, MediaItem, PreparedItem

if TYPE_CHECKING:
    from conftest import Bench

Make = Callable[..., "Bench"]
ROWS = torch.arange(12.0).reshape(3, 4)


def item(rows: Any = ROWS, mark: Any = 5, uuid: str | None = None, index: int = 0) -> MediaItem:
    fields = {} if rows is None else {"mark": mark}
    return MediaItem("note", index, uuid=uuid, embeds=GivenEmbeds(rows, fields))


def rows_of(prepared: PreparedItem) -> torch.Tensor:
    return prepared.features[PRECOMPUTED]["rows"]


@pytest.fixture
def wide(bench: Make) -> Make:
    """Benches whose model takes embeddings of width 4."""
    return lambda **options: bench(embed_widths={"note": 4}, **options)


async def test_rows_take_the_place_of_features(wide: Make) -> None:
    one = wide(dtype=torch.bfloat16)
    media = await one.pipeline.prepare([item(), *one.items("abc"), item(ROWS + 1)])
    first, raw, last = media.items
    assert rows_of(first).dtype == torch.bfloat16
    assert torch.equal(rows_of(first).float(), ROWS)
    assert torch.equal(rows_of(last).float(), ROWS + 1)
    assert first.plan.num_tokens == 3
    assert first.plan.grid == (5,)
    assert list(raw.features) == ["reader"]
    assert len({first.key, raw.key, last.key}) == 3
    assert one.kind.calls == {"digest": 1, "probe": 1, "load": 1}, "of the raw item"


async def test_equal_rows_are_planned_once(wide: Make) -> None:
    one = wide()
    first = await one.pipeline.prepare([item()])
    again = await one.pipeline.prepare([item(ROWS.clone())])
    other = await one.pipeline.prepare([item(mark=6)])
    assert first.items[0].key == again.items[0].key != other.items[0].key
    assert (first.num_hits, again.num_hits, other.num_hits) == (0, 1, 0)
    assert one.adapter.calls["plan_embeds"] == 2


async def test_salt_and_options_are_part_of_the_key(wide: Make) -> None:
    one = wide()
    keys = {
        (await one.pipeline.prepare([item()], **change)).items[0].key
        for change in ({}, {"salt": "tenant"}, {"processor_kwargs": {"gain": 2}})
    }
    assert len(keys) == 3


async def test_a_known_uuid_needs_no_rows(wide: Make) -> None:
    one = wide()
    first = await one.pipeline.prepare([item(uuid="u")])
    bare = MediaItem("note", 0, uuid="u")  # data left out of a list: what it was isn't said
    for given in (item(None, uuid="u"), bare, item("not even decoded", uuid="u")):
        again = await one.pipeline.prepare([given])
        assert again.items[0].key == first.items[0].key
        assert again.num_hits == 1
    assert one.adapter.calls["plan_embeds"] == 1


async def test_a_uuid_names_the_picture_and_the_embeddings_apart(wide: Make) -> None:
    one = wide()
    raw = await one.pipeline.prepare(one.items("abc", uuids=["u"]))
    with pytest.raises(CacheMissError):
        await one.pipeline.prepare([item(None, uuid="u")])
    given = await one.pipeline.prepare([item(uuid="u")])
    assert given.items[0].key != raw.items[0].key
    bare = await one.pipeline.prepare([MediaItem("note", 0, uuid="u")])
    assert bare.items[0].key == raw.items[0].key, "the raw item first"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (item(ROWS[:, :3], index=1), MediaError, r"note 1: its embeddings have the shape \(3, 3\)"),
        (item(ROWS.int()), MediaError, "note 0: its embeddings are int32"),
        (item(ROWS / 0), MediaError, "note 0: .* not finite"),
        (item(torch.zeros(60, 4)), RequestError, "note 0: a note has at most 50"),
        (item(mark=13), PluginError, "a plan of 2 tokens for 3 embedding rows"),
        (MediaItem("note", 0, embeds=GivenEmbeds(ROWS)), RequestError, "came without mark"),
        (item(torch.zeros(50, 4, dtype=torch.float64)), LimitError, "800 bytes"),
    ],
)
async def test_what_is_refused(wide: Make, given: MediaItem, error: Any, message: str) -> None:
    one = wide(max_request_bytes=799 if error is LimitError else 2**20)
    with pytest.raises(error, match=message):
        await one.pipeline.prepare([given])
    assert one.pipeline.stats.num_entries == 0


async def test_a_model_that_takes_none(bench: Make) -> None:
    with pytest.raises(RequestError, match="note 0: TestModel takes no pre-computed note embed"):
        await bench().pipeline.prepare([item()])


# --- items of which only the plan is left ----------------------------------------------


@pytest.mark.parametrize("cache_bytes", [0, 600])
async def test_a_plan_outlives_its_features(wide: Make, cache_bytes: int) -> None:
    one = wide(cache_bytes=cache_bytes)
    first = await one.pipeline.prepare(one.items("abc", uuids=["u"]))
    await one.pipeline.prepare(one.items("another", uuids=["v"]))
    (left,) = (await one.pipeline.prepare(one.items(None, uuids=["u"]))).items
    assert (left.key, left.plan) == (first.items[0].key, first.items[0].plan)
    assert left.features == {}
    assert left.uuid == "u"


async def test_the_plans_of_derived_items_too(bench: Make) -> None:
    one = bench(echo=True, cache_bytes=0)
    first = await one.pipeline.prepare(one.items("ab~", uuids=["u"]))
    left = await one.pipeline.prepare(one.items(None, uuids=["u"]))
    assert [part.key for part in left.items] == [part.key for part in first.items]
    assert [part.features for part in left.items] == [{}, {}]
    assert left.num_hits == 0
    one.pipeline.reset()
    with pytest.raises(CacheMissError, match="cache miss for note at index 0, uuid u"):
        await one.pipeline.prepare(one.items(None, uuids=["u"]))
