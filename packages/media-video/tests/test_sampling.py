"""The rules, against transformers' own function, and against numbers that were published."""

from __future__ import annotations

import ast
import importlib.util
import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sensorium.errors import MediaError
from sensorium_media_video import sampling


def transformers_rule() -> Callable[..., torch.Tensor]:
    """``Qwen2VLVideoProcessor.sample_frames`` from its source: its module needs torchvision."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "models" / "qwen2_vl" / "video_processing_qwen2_vl.py"
    functions = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "sample_frames"
    ]
    assert len(functions) == 1
    scope: dict[str, Any] = {"math": math, "torch": torch, "VideoMetadata": object}
    module = ast.Module([functions[0]], [])
    exec(compile(module, str(file), "exec"), scope)
    rule: Callable[..., torch.Tensor] = scope["sample_frames"]
    return rule


DEFAULTS = SimpleNamespace(
    num_frames=None, fps=2.0, temporal_patch_size=2, min_frames=4, max_frames=768
)


def clips(count: int) -> list[tuple[int, float]]:
    rng = random.Random("clips")
    rates = [1.0, 7.67, 10.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 59.94, 120.0]
    return [(rng.randrange(2, 20_000), rng.choice(rates)) for _ in range(count)]


def test_qwen_is_what_transformers_does() -> None:
    rule = transformers_rule()
    for total, rate in clips(600):
        metadata = SimpleNamespace(total_num_frames=total, fps=rate)
        for fps in (2.0, 1.0, 0.3, 5.0):
            expected = rule(DEFAULTS, metadata, fps=fps).clamp(max=total - 1).tolist()
            assert sampling.qwen(total, rate, fps=fps) == tuple(expected)


def test_qwen_with_a_number_of_frames_is_what_transformers_does() -> None:
    rule = transformers_rule()
    for total, rate in clips(500):
        metadata = SimpleNamespace(total_num_frames=total, fps=rate)
        for wanted in (2, 7, 16, 31, 768):
            if round(wanted / 2) * 2 > total:
                continue  # there it is an error
            expected = rule(DEFAULTS, metadata, num_frames=wanted).clamp(max=total - 1).tolist()
            assert sampling.qwen(total, rate, num_frames_wanted=wanted) == tuple(expected)


def test_what_the_published_rules_say_of_300_frames() -> None:
    truncated = sampling.qwen(300, 30.0)
    assert len(truncated) == 20
    assert truncated == tuple(range(0, 300, 15))
    rounded = sampling.qwen_vl_utils(300, 30.0)
    assert rounded[:3] == (0, 16, 31)
    assert (len(rounded), rounded[-1]) == (20, 299)


def test_qwen_bounds() -> None:
    assert len(sampling.qwen(10, 30.0)) == 4
    assert len(sampling.qwen(100_000, 30.0)) == 768
    assert sampling.qwen(3, 30.0) == (0, 1)
    assert sampling.qwen(1, 30.0) == (0,)
    assert sampling.qwen(5, 30.0, num_frames_wanted=32) == (0, 1, 2, 3)


@pytest.mark.parametrize("rule", [sampling.qwen, sampling.qwen_vl_utils])
def test_qwen_wants_a_rate(rule: Callable[..., Any]) -> None:
    with pytest.raises(MediaError, match="its own rate isn't known"):
        rule(300, 0.0)
    assert len(rule(300, 0.0, num_frames_wanted=8)) == 8


def test_qwen_vl_utils_by_its_formula() -> None:
    for total, rate in clips(500):
        count = min(max(total / rate * 2, 4), min(768, total) // 2 * 2, total)
        expected = torch.linspace(0, total - 1, math.floor(count / 2) * 2).round().long().tolist()
        assert sampling.qwen_vl_utils(total, rate) == tuple(expected)


def test_onevision() -> None:
    assert sampling.onevision(10, 30.0) == tuple(range(10))
    for total, rate in clips(500):
        count = min(32, total)
        expected = np.linspace(0, total - 1, count).astype(int).tolist()
        assert sampling.onevision(total, rate) == tuple(expected)
    assert len(sampling.onevision(300, 30.0, fps=1.0)) == 10
    assert len(sampling.onevision(3000, 30.0, num_frames_wanted=None, fps=1.0)) == 100
    assert sampling.onevision(20, 30.0, fps=1.0) == (0,)


def test_minicpm() -> None:
    assert sampling.minicpm(300, 29.97) == tuple(range(0, 300, 30))
    assert sampling.minicpm(5, 0.2) == tuple(range(5))
    many = sampling.minicpm(30 * 128, 30.0)
    assert many == tuple(30 * (2 * i + 1) for i in range(64))  # the middles of pairs
    with pytest.raises(MediaError, match="rate isn't known"):
        sampling.minicpm(100, 0.0)


def test_every_rule_ascends_within_the_clip() -> None:
    for total, rate in [(1, 30.0), (2, 30.0), (5, 0.5), *clips(300)]:
        for rule in (
            sampling.qwen,
            sampling.qwen_vl_utils,
            sampling.onevision,
            sampling.minicpm,
        ):
            indices = rule(total, rate)
            assert indices
            assert 0 <= indices[0] <= indices[-1] < total
            assert all(one <= other for one, other in pairwise(indices))
            assert all(type(index) is int for index in indices)


def test_sampled_fps() -> None:
    assert sampling.sampled_fps(20, 300, 30.0) == pytest.approx(2.0)
