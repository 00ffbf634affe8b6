"""Which attention backend is chosen, and what is said of those that are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sensorium.errors import ConfigError
from sensorium.ops import (
    AttentionLayout,
    AttentionSpec,
    PagedAttention,
    ReferenceAttention,
    choose_attention,
    extension,
)

LAYOUT = AttentionLayout(torch.device("cpu"), torch.float32, head_size=64, page_size=16)
SPEC = AttentionSpec(1.0, 3, 2.0, non_causal=True)


def test_a_backend_is_forced_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_ATTENTION", "reference")
    choice = choose_attention([SPEC], LAYOUT)
    assert isinstance(choice.of[SPEC], ReferenceAttention)
    assert choice.describe() == "reference"


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_ATTENTION", "fast")
    with pytest.raises(ConfigError, match="is 'fast'; allowed are flash, paged, reference"):
        choose_attention([SPEC], LAYOUT)


def test_a_forced_backend_that_lacks_something_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_ATTENTION", "flash")
    with pytest.raises(ConfigError, match="'flash', but that backend lacks anything for cpu"):
        choose_attention([SPEC], LAYOUT)


def test_each_kind_of_layer_gets_the_best_that_serves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)
    capped = replace(SPEC, soft_cap=None)

    def lacks(self: PagedAttention, spec: AttentionSpec, layout: AttentionLayout) -> str | None:
        return "soft caps" if spec.soft_cap else None

    monkeypatch.setattr(PagedAttention, "lacks", lacks)
    choice = choose_attention([capped, SPEC], LAYOUT)
    assert isinstance(choice.of[capped], PagedAttention)
    assert isinstance(choice.of[SPEC], ReferenceAttention)
    assert choice.describe().startswith("paged")
    assert " and reference" in choice.describe()
    assert "paged lacks soft caps" in choice.describe()


def test_without_the_extension_the_reference_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)
    loaded = extension.Loaded({"cpu": "it was built without its cpu library (no compiler)"})
    monkeypatch.setattr(extension, "load", lambda: loaded)
    extension.lack.cache_clear()
    try:
        choice = choose_attention([SPEC], LAYOUT)
    finally:
        extension.lack.cache_clear()
    assert isinstance(choice.of[SPEC], ReferenceAttention)
    assert "it was built without its cpu library (no compiler)" in choice.describe()


def test_a_dtype_that_is_not_compiled_goes_to_the_reference() -> None:
    lack = PagedAttention().lacks(SPEC, replace(LAYOUT, dtype=torch.float64))
    assert lack is not None
    assert "float32 and bfloat16 on cpu" in lack or "built without" in lack
