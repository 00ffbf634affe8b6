"""Embedding checkpoints say how they pool; what isn't built is refused."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from sensorium.checkpoint import IGNORED_PATTERNS, Checkpoint
from sensorium.engine.embedding_modules import check_modules
from sensorium.errors import ConfigError

OLD = "sentence_transformers.models."
NEW = "sentence_transformers.sentence_transformer.modules."
LAST = {"word_embedding_dimension": 64, "pooling_mode_lasttoken": True, "include_prompt": True}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    (tmp_path / "1_Pooling").mkdir()
    return Checkpoint("m", tmp_path, {}, {}, {})


def write(checkpoint: Checkpoint, pooling: Any, *kinds: str, prefix: str = OLD) -> None:
    modules = [
        {"idx": i, "type": prefix + kind, "path": f"{i}_{kind}" if i else ""}
        for i, kind in enumerate(("Transformer", *kinds))
    ]
    (checkpoint.folder / "modules.json").write_text(json.dumps(modules))
    (checkpoint.folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("prefix", [OLD, NEW])
@pytest.mark.parametrize("pooling", [LAST, {"pooling_mode": "lasttoken"}])
def test_the_last_token_is_built(checkpoint: Checkpoint, prefix: str, pooling: Any) -> None:
    check_modules(checkpoint)  # no such file: nothing is said
    write(checkpoint, pooling, "Pooling", "Normalize", prefix=prefix)
    check_modules(checkpoint)


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({**LAST, "pooling_mode_max_tokens": True}, "lasttoken and max"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["mean", "lasttoken"]}, "mean and lasttoken"),
        ({}, "mean"),
    ],
)
def test_other_pooling_is_refused_by_name(checkpoint: Checkpoint, pooling: Any, modes: str) -> None:
    write(checkpoint, pooling, "Pooling")
    with pytest.raises(ConfigError, match=rf"m pools by {modes} \(1_Pooling/config\.json\)"):
        check_modules(checkpoint)


def test_further_layers_are_refused_by_name(checkpoint: Checkpoint) -> None:
    write(checkpoint, LAST, "Pooling", "Dense")
    with pytest.raises(ConfigError, match=r"m has a module Dense \(modules\.json\)"):
        check_modules(checkpoint)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "can't be read"),
        ("{}", "holds a dict; it must hold a list"),
        ("[3]", "has the module 3"),
        ('[{"type": "a.Pooling", "path": "../x"}]', "has the path"),
    ],
)
def test_a_broken_file_is_named(checkpoint: Checkpoint, text: str, sentence: str) -> None:
    (checkpoint.folder / "modules.json").write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        check_modules(checkpoint)


def test_a_download_takes_the_modules_configs_along() -> None:
    def ignored(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in IGNORED_PATTERNS)

    assert not ignored("1_Pooling/config.json")
    assert not ignored("model.safetensors")
    for name in ("onnx/config.json", "original/params.json", "2_Dense/model.safetensors"):
        assert ignored(name)
