"""What answers are like where the request doesn't say: the operator's `--generation-config`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, served_as
from tiny_checkpoints import make_llama, write_json

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}
OWN: dict[str, Any] = {"eos_token_id": 2, "max_new_tokens": 5, "temperature": 5.0, "top_p": 1e-4}
OTHER: dict[str, Any] = {"eos_token_id": 2, "max_new_tokens": 3, "temperature": 5.0, "top_k": 300}
SEEDS = range(4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_llama(tmp_path_factory.mktemp("model"))
    write_json(folder / "generation_config.json", OWN)
    return folder


def serving(model: Path, *arguments: str) -> Any:
    return served_as(model, "--max-model-len", "64", *arguments)


@pytest.fixture(scope="module")
def by_checkpoint(model: Path) -> Iterator[Served]:
    with serving(model) as server:
        yield server


@pytest.fixture(scope="module")
def neutral(model: Path) -> Iterator[Served]:
    with serving(model, "--generation-config", "sensorium") as server:
        yield server


def texts(server: Served, **fields: Any) -> list[str]:
    """One answer for each seed."""
    answers = [server.post(CHAT, {**ASK, "seed": seed, **fields}) for seed in SEEDS]
    return [answer.json()["choices"][0]["message"]["content"] for answer in answers]


def length(server: Served, **more: Any) -> int:
    tokens: int = server.post(CHAT, {**ASK, **more}).json()["usage"]["completion_tokens"]
    return tokens


def test_the_checkpoints_file_bounds_answers(by_checkpoint: Served, neutral: Served) -> None:
    wanted: list[dict[str, Any]] = [{}, {"max_tokens": 7}, {"min_tokens": 6}]
    assert [length(by_checkpoint, **w) for w in wanted] == [5, 7, 6]
    prompt = neutral.post("/tokenize", {"messages": ASK["messages"]}).json()["count"]
    assert [length(neutral, **w) for w in wanted] == [64 - prompt, 7, 64 - prompt]


def test_a_completion_has_openais_length(by_checkpoint: Served) -> None:
    ask = {"prompt": "hi", "ignore_eos": True}
    found = by_checkpoint.post("/v1/completions", ask).json()["usage"]["completion_tokens"]
    assert found == 16


def test_what_a_request_leaves_open_is_the_checkpoints(
    by_checkpoint: Served, neutral: Served
) -> None:
    """Nearly nothing is left to chance by this ``top_p``, and much by this temperature."""
    assert len(set(texts(by_checkpoint))) == 1
    assert len(set(texts(neutral, max_tokens=5))) == len(SEEDS)
    written = {"max_tokens": 5, "temperature": 5.0, "top_p": 1e-4}
    assert texts(by_checkpoint) == texts(neutral, **written)


def test_what_a_request_says_wins(by_checkpoint: Served, neutral: Served) -> None:
    open_wide = texts(by_checkpoint, top_p=1)
    assert len(set(open_wide)) == len(SEEDS)
    assert open_wide == texts(neutral, max_tokens=5, temperature=5.0), "the rest stays the file's"
    cool = texts(by_checkpoint, top_p=1, temperature=0.5)
    assert cool == texts(neutral, max_tokens=5, temperature=0.5)
    assert cool != open_wide


def test_another_folders_file_is_read_instead(model: Path, neutral: Served, tmp_path: Path) -> None:
    write_json(tmp_path / "generation_config.json", OTHER)
    with serving(model, "--generation-config", str(tmp_path)) as server:
        assert length(server) == 3
        found = texts(server)
    assert found == texts(neutral, max_tokens=3, temperature=5.0, top_k=300)
