"""The three caches behind ``multi_modal_uuids``, counted at the places where work is done."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_helpers import random_image
from PIL import Image
from tiny_checkpoints import make_qwen25vl

from sensorium import LLM, RequestOutput, SamplingParams
from sensorium.errors import CacheMissError, RequestError
from sensorium_media_image.kind import ImageKind

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=4, ignore_eos=True)
SIZE = (84, 112)  # twelve embedding rows of 64 floats
ROW_BYTES = 64 * 4
ITEM_BYTES = 12 * ROW_BYTES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen25vl(tmp_path_factory.mktemp("qwen"), seed=4)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often media were digested, probed and decoded."""
    counts: Counter[str] = Counter()
    for name in ("digest", "probe", "load"):
        original = getattr(ImageKind, name)

        def counted(self: Any, sources: Any, *, _of: Any = original, _name: str = name) -> Any:
            counts[_name] += 1
            return _of(self, sources)

        monkeypatch.setattr(ImageKind, name, counted)
    return counts


def engine(folder: Path, **options: Any) -> LLM:
    return LLM(folder, dtype="float32", max_model_len=256, **options)


def picture(seed: int) -> np.ndarray:
    return random_image(*SIZE, seed)


def ask(llm: LLM, images: list[Any], uuids: Any = None, **more: Any) -> RequestOutput:
    prompt = {
        "prompt": "so " + "<image>" * len(images) + "?",
        "multi_modal_data": {"image": images},
    }
    if uuids is not None:
        prompt["multi_modal_uuids"] = {"image": uuids}
    (output,) = llm.generate({**prompt, **more}, GREEDY, use_tqdm=False)
    return output


def test_the_seeds_example(folder: Path, calls: Counter[str]) -> None:
    """First both with data, one under a name; then that one by its name alone."""
    img_a, img_b = Image.fromarray(picture(0)), Image.fromarray(picture(1))
    with engine(folder) as llm:
        first = ask(llm, [img_a, img_b], ["sku-1234-a", None])
        assert calls == {"digest": 1, "probe": 2, "load": 2}
        again = ask(llm, [None, img_b], ["sku-1234-a", None])
        assert calls == {"digest": 2, "probe": 2, "load": 2}, "nothing is decoded again"
        llm.check_integrity()
    assert again.outputs[0].token_ids == first.outputs[0].token_ids
    assert first.metrics.processor_hit_rate == 0
    assert again.metrics.processor_hit_rate == 1
    assert first.metrics.encoder_hit_rate == 0
    assert first.metrics.prefix_hit_rate == 0
    assert again.metrics.prefix_hit_rate == 0.5, "one page of two"


def test_hit_rates_without_the_prefix_cache(folder: Path) -> None:
    with engine(folder, enable_prefix_caching=False) as llm:
        ask(llm, [picture(0)])
        output = ask(llm, [picture(0), picture(1)])
    metrics = output.metrics
    assert (metrics.num_encoder_hits, metrics.num_encoded_items) == (1, 1)
    assert metrics.encoder_hit_rate == metrics.processor_hit_rate == 0.5
    assert metrics.prefix_hit_rate == 0
    with engine(folder) as llm:
        (text,) = llm.generate("no picture", GREEDY, use_tqdm=False)
    assert text.metrics.processor_hit_rate is text.metrics.encoder_hit_rate is None


def test_equal_pictures_are_decoded_and_encoded_once(folder: Path, calls: Counter[str]) -> None:
    with engine(folder, enable_prefix_caching=False) as llm:
        output = ask(llm, [picture(0), picture(0), picture(1)])
    assert calls["load"] == 2
    assert output.metrics.num_processor_hits == 1
    assert (output.metrics.num_encoded_items, output.metrics.num_encoder_hits) == (2, 1)


@pytest.mark.parametrize("cache_gb", [0, 1e-6])
def test_only_the_embedding_is_left(folder: Path, cache_gb: float) -> None:
    """The processor cache holds nothing, or not for long; the encoder cache still does."""
    with engine(folder, mm_processor_cache_gb=cache_gb) as llm:
        first = ask(llm, [picture(0), picture(1)], ["a", "b"])
        llm.reset_prefix_cache()
        again = ask(llm, [None, None], ["a", "b"])
        assert again.outputs[0].token_ids == first.outputs[0].token_ids
        assert again.metrics.num_encoder_hits == 2
        assert again.metrics.num_processor_hits == 0
        with pytest.raises(CacheMissError, match="cache miss for image at index 1, uuid c:"):
            ask(llm, [None, None], ["a", "c"])
        llm.check_integrity()


def test_only_the_pages_are_left(folder: Path) -> None:
    one_item = ITEM_BYTES / 2**30
    with engine(folder, mm_processor_cache_gb=0, mm_encoder_cache_gb=one_item) as llm:
        first = ask(llm, [picture(0)], ["a"], prompt="so <image> and what is that, then?")
        ask(llm, [picture(1)], ["b"])
        again = ask(llm, [None], ["a"], prompt="so <image> and what is that, then?")
        assert again.outputs[0].token_ids == first.outputs[0].token_ids
        assert again.metrics.encoder_hit_rate is None
        llm.reset_prefix_cache()
        with pytest.raises(
            CacheMissError, match="cache miss for image at index 0, uuid a:"
        ) as caught:
            ask(llm, [None], ["a"])
        assert not caught.value.retryable
        llm.check_integrity()


def test_reset_mm_cache_forgets_names(folder: Path) -> None:
    with engine(folder) as llm:
        ask(llm, [picture(0)], ["a"])
        llm.reset_mm_cache()
        with pytest.raises(CacheMissError):
            ask(llm, [None], ["a"])


def test_both_caches_off_uuids_are_ignored(folder: Path, calls: Counter[str]) -> None:
    with engine(folder, mm_processor_cache_gb=0, enable_prefix_caching=False) as llm:
        one = ask(llm, [picture(0)], ["same"])
        other = ask(llm, [picture(1)], ["same"])
        assert calls["digest"] == calls["load"] == 2
        assert other.metrics.num_encoder_hits == 0, "another picture, whatever its name"
        assert one.finished
        with pytest.raises(RequestError, match="image 0: no data were given, and uuids are ign"):
            ask(llm, [None], ["same"])


def test_names_hold_within_salt_and_options(folder: Path) -> None:
    with engine(folder) as llm:
        ask(llm, [picture(0)], ["a"], cache_salt="one")
        ask(llm, [None], ["a"], cache_salt="one")
        for change in ({}, {"cache_salt": "two"}):
            with pytest.raises(CacheMissError):
                ask(llm, [None], ["a"], **change)
        with pytest.raises(CacheMissError):
            ask(llm, [None], ["a"], cache_salt="one", mm_processor_kwargs={"max_pixels": 3200})


def test_two_that_wait_for_each_others_bytes(folder: Path) -> None:
    """Each holds one embedding by its name alone and needs room for another: 2 + 2 of 3."""
    room = 3 * ITEM_BYTES / 2**30
    with engine(folder, mm_processor_cache_gb=0, mm_encoder_cache_gb=room) as llm:
        ask(llm, [picture(0), picture(1)], ["a", "b"])
        llm.reset_prefix_cache()
        prompts = [
            {
                "prompt": f"{i} <image> and <image>?",
                "multi_modal_data": {"image": [None, picture(5 + i)]},
                "multi_modal_uuids": {"image": [name, None]},
            }
            for i, name in enumerate("ab")
        ]
        first, second = llm.generate(prompts, GREEDY, use_tqdm=False, on_error="return")
        assert first.error is None
        assert second.error is None or isinstance(second.error, CacheMissError)
        llm.check_integrity()
