"""A foreign encoder that takes its items piece by piece, in an engine: as if it took them whole."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endless import ENDLESS, ROOM
from tiny_checkpoints import make_qwen2

from sensorium import LLM, AsyncEngine, SamplingParams
from sensorium.engine.async_engine import last_output
from sensorium.errors import PluginError
from sensorium.plugins import EncoderOutput
from sensorium.runner.runner import Runner
from sensorium.types import Batch

FOLDER = Path(__file__).with_name("soundings")
PINGS = 8 * 30
NUM_PIECES = 15


@pytest.fixture(autouse=True)
def plugin(installed: Any) -> Iterator[Any]:
    with installed("soundings", FOLDER, "soundings_plugin"):
        yield importlib.import_module("soundings_plugin")


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_qwen2(tmp_path, seed=5))


def divide(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of two rows a piece."""
    plan = plugin.SoundingAdapter.plan
    monkeypatch.setattr(
        plugin.SoundingAdapter,
        "plan",
        lambda self, shape, options: replace(p := plan(self, shape, options), num_pieces=pieces(p)),
    )


def pieces(plan: Any) -> int:
    return -(-int(plan.num_tokens) // 2)


class Takes:
    """``encode_piece`` of the soundings' encoder.

    Attributes:
        calls: the pieces it was asked for.
        fails_at: the piece at which it fails.
    """

    def __init__(self, plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        self.fails_at: int | None = None

        def encode_piece(sonar: Any, item: Any, piece: int, num_pieces: int) -> EncoderOutput:
            self.calls.append(piece)
            if piece == self.fails_at:
                raise ValueError("a ping too many")
            [output] = sonar.forward([{"depths": item["depths"][2 * piece : 2 * piece + 2]}])
            return output  # type: ignore[no-any-return]

        monkeypatch.setattr(plugin.Sonar, "encode_piece", encode_piece, raising=False)


TEXT = "Words only."
WORDS = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
ASKED = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, logprobs=3)


def sounding() -> Any:
    depths = np.random.default_rng(0).uniform(1, 90, PINGS).astype(np.float32)
    return {"prompt": "It is <sounding>.", "multi_modal_data": {"sounding": depths}}


def options(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "dtype": "float32", "device": "cpu", "engine_process": False, **more}


def watch(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches from now on."""
    seen: list[Batch] = []
    launch = Runner.launch

    def watched(runner: Runner, batch: Batch) -> Any:
        seen.append(batch)
        return launch(runner, batch)

    monkeypatch.setattr(Runner, "launch", watched)
    return seen


async def test_an_item_in_pieces_is_the_item_and_rows_that_decode_go_on(
    plugin: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLM(**options(model, max_model_len=512)) as llm:
        [whole] = llm.generate(sounding(), ASKED, use_tqdm=False)
    divide(plugin, monkeypatch)
    takes = Takes(plugin, monkeypatch)
    with AsyncEngine(**options(model, max_encode_pieces_per_step=2, **ROOM)) as engine:
        text = engine.generate(TEXT, ENDLESS)
        await anext(text)  # it decodes from now on
        seen = watch(monkeypatch)
        divided = await last_output(engine.generate(sounding(), ASKED))
        await text.aclose()  # type: ignore[attr-defined]
        await engine.check_integrity()
    encoding = [batch for batch in seen if batch.encode]
    runs = [task.pieces for batch in encoding for task in batch.encode]
    assert runs == [(first, min(first + 2, NUM_PIECES)) for first in range(0, NUM_PIECES, 2)]
    assert all(len(batch.encode) == 1 and batch.chunks for batch in encoding)
    assert takes.calls == list(range(NUM_PIECES)), "each once, in order"
    ours, theirs = divided.outputs[0], whole.outputs[0]
    assert list(ours.token_ids) == list(theirs.token_ids)
    assert ours.logprobs is not None
    assert theirs.logprobs is not None
    for one, other in zip(ours.logprobs, theirs.logprobs, strict=True):
        assert list(one) == list(other)
        for token, told in one.items():
            assert told.logprob == pytest.approx(other[token].logprob, abs=1e-4)


def test_a_failing_piece_costs_its_requests_and_no_other(
    plugin: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    divide(plugin, monkeypatch)
    takes = Takes(plugin, monkeypatch)
    with LLM(**options(model, max_model_len=512)) as llm:
        takes.fails_at = 6
        with pytest.raises(PluginError, match="encode_piece of soundings raised ValueError"):
            llm.generate(sounding(), ASKED, use_tqdm=False)
        [text] = llm.generate(TEXT, WORDS, use_tqdm=False)
        assert len(text.outputs[0].token_ids) == 20
        takes.fails_at = None
        [item] = llm.generate(sounding(), ASKED, use_tqdm=False)
        assert len(item.outputs[0].token_ids) == 5


def test_an_encoder_without_pieces_fails_the_request(
    plugin: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    divide(plugin, monkeypatch)
    with LLM(**options(model, max_model_len=512)) as llm:
        with pytest.raises(PluginError, match="sonar of soundings has no encode_piece"):
            llm.generate(sounding(), ASKED, use_tqdm=False)
        [text] = llm.generate(TEXT, WORDS, use_tqdm=False)
        assert len(text.outputs[0].token_ids) == 20


@pytest.mark.parametrize("count", [0, -1, 31, "2", True])
def test_a_plan_has_a_piece_and_no_more_than_rows(
    plugin: Any, model: str, monkeypatch: pytest.MonkeyPatch, count: Any
) -> None:
    plan = plugin.SoundingAdapter.plan
    monkeypatch.setattr(
        plugin.SoundingAdapter,
        "plan",
        lambda self, shape, options: replace(
            p := plan(self, shape, options), num_pieces=count if p.num_tokens == 30 else 1
        ),
    )
    with (
        LLM(**options(model, max_model_len=512)) as llm,
        pytest.raises(PluginError, match="num_pieces"),
    ):
        llm.generate(sounding(), ASKED, use_tqdm=False)
