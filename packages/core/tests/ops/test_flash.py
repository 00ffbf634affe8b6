"""The flash-attn backend against stand-ins that check every argument and compute the result."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_cases import Case
from extension_cases import TOLERANCE
from flash_stand_ins import PACKAGES, install
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensorium.ops import (
    AttentionLayout,
    AttentionSpec,
    ReferenceAttention,
    choose_attention,
    extension,
)
from sensorium.ops.flash import FlashAttention

LAYOUT = AttentionLayout(torch.device("cuda"), torch.bfloat16, head_size=64, page_size=256)
SPEC = AttentionSpec(0.125)
#: (query, total) of sequences: alone, together, around page borders.
BATCHES = {
    "decode": [(1, 1), (1, 17), (1, 256), (1, 257)],
    "prefill": [(1, 1), (16, 16), (17, 17), (40, 40)],
    "extend": [(5, 40), (1, 19), (16, 272), (3, 258)],
}
Gpu = Callable[[tuple[int, int]], None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Says which compute capability the device has."""

    def has(capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    return has


@pytest.fixture(params=PACKAGES)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> Any:
    """The backend with one version installed, chosen for a device that the version fits."""
    module, function, capability = PACKAGES[request.param]
    install(monkeypatch, {module: function})
    gpu(capability)
    chosen = FlashAttention()
    assert chosen.lacks(SPEC, LAYOUT) is None
    return chosen


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        AttentionSpec(0.2, window=1),
        AttentionSpec(0.2, window=7),
        AttentionSpec(0.3, soft_cap=3.0),
        AttentionSpec(0.3, window=30, soft_cap=1.5),
    ],
    ids=str,
)
def test_what_the_packages_are_given_makes_the_answer(
    backend: FlashAttention, batch: list[tuple[int, int]], group: int, spec: AttentionSpec
) -> None:
    case = Case(batch, spec, page_size=256, head_size=64, group=group, dtype=torch.bfloat16)
    before = extension.CALLS.total()
    case.check(backend, TOLERANCE[torch.bfloat16])
    assert extension.CALLS.total() == before + 1


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    queries=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    cached=st.lists(st.integers(0, 300), min_size=4, max_size=4),
    window=st.sampled_from([None, 1, 16, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_batch_is_right(
    backend: FlashAttention, queries: list[int], cached: list[int], window: int | None, seed: int
) -> None:
    batch = [(n, n + more) for n, more in zip(queries, cached, strict=False)]
    Case(
        batch,
        AttentionSpec(0.125, window),
        page_size=256,
        kv_heads=1,
        group=2,
        head_size=64,
        seed=seed,
        dtype=torch.float16,
    ).check(backend, TOLERANCE[torch.float16])


@pytest.mark.parametrize("version", [3, 4])
def test_pages_of_any_size(version: int, monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    module, function, capability = PACKAGES[version]
    install(monkeypatch, {module: function})
    gpu(capability)
    backend = FlashAttention()
    assert backend.lacks(SPEC, replace(LAYOUT, page_size=16)) is None
    Case([(1, 33), (4, 20)], SPEC, page_size=16, head_size=64, dtype=torch.bfloat16).check(
        backend, TOLERANCE[torch.bfloat16]
    )


def test_keys_are_stored_as_by_the_reference(backend: FlashAttention) -> None:
    """Its tensors are where the extension may not be: on a CPU in float16 there is none."""
    case = Case([(2, 3), (1, 6)], SPEC, head_size=64, dtype=torch.float16)
    k, v = torch.randn(2, 3, 2, 64, dtype=torch.float16)
    q, angles = torch.randn(3, 4, 64, dtype=torch.float16), torch.randn(3, 32)
    cos, sin = angles.cos().half(), angles.sin().half()
    mine, wanted = case.kv.zero_(), case.kv.clone()
    slots = case.batch.slot_mapping
    turned = backend.rope_store_kv(q, k, v, cos, sin, mine, slots)
    expected = ReferenceAttention().rope_store_kv(q, k, v, cos, sin, wanted, slots)
    assert torch.equal(turned, expected)
    assert torch.equal(mine, wanted)
    backend.store_kv(k, v, mine, slots)
    ReferenceAttention().store_kv(k, v, wanted, slots)
    assert torch.equal(mine, wanted)


@pytest.mark.parametrize(
    ("capability", "layout", "spec", "lack"),
    [
        ((9, 0), replace(LAYOUT, device=torch.device("cpu")), SPEC, "anything for cpu"),
        ((9, 0), replace(LAYOUT, dtype=torch.float32), SPEC, "float32"),
        ((9, 0), LAYOUT, replace(SPEC, non_causal=True), "non-causal ranges"),
        ((9, 0), replace(LAYOUT, head_size=257), SPEC, "heads of size 257"),
        ((9, 0), replace(LAYOUT, head_size=68), SPEC, "heads of size 68"),
        ((7, 5), LAYOUT, SPEC, r"kernels for sm_7x \(flash-attn 2\)"),
        ((12, 0), replace(LAYOUT, page_size=16), SPEC, "pages of 16 tokens .* page_size= sets it"),
        ((10, 0), replace(LAYOUT, head_size=80, page_size=16), SPEC, "pages of 16 tokens"),
    ],
)
def test_what_it_lacks_is_said(
    capability: tuple[int, int],
    layout: AttentionLayout,
    spec: AttentionSpec,
    lack: str,
    monkeypatch: pytest.MonkeyPatch,
    gpu: Gpu,
) -> None:
    install(monkeypatch, {module: function for module, function, _ in PACKAGES.values()})
    gpu(capability)
    reason = FlashAttention().lacks(spec, layout)
    assert reason is not None
    assert re.search(lack, reason)


@pytest.mark.parametrize(
    ("version", "capability", "layout", "lack"),
    [
        (4, (9, 0), LAYOUT, "pages on sm_9x (flash-attn 4)"),
        (4, (12, 0), LAYOUT, "pages on sm_12x (flash-attn 4)"),
        (4, (10, 0), replace(LAYOUT, head_size=256), "heads of size 256 (flash-attn 4 has 64"),
        (3, (8, 0), LAYOUT, "kernels for sm_8x (flash-attn 3)"),
        (2, (8, 0), replace(LAYOUT, page_size=128), "pages of 128 tokens (flash-attn 2 reads"),
    ],
)
def test_a_version_that_does_not_fit_says_why(
    version: int,
    capability: tuple[int, int],
    layout: AttentionLayout,
    lack: str,
    monkeypatch: pytest.MonkeyPatch,
    gpu: Gpu,
) -> None:
    module, function, _ = PACKAGES[version]
    install(monkeypatch, {module: function})
    gpu(capability)
    assert str(FlashAttention().lacks(SPEC, layout)).startswith(lack)


@pytest.mark.parametrize(
    ("capability", "version"), [((8, 0), 2), ((9, 0), 3), ((10, 3), 4), ((12, 0), 2)]
)
def test_the_newest_version_that_fits_is_used(
    capability: tuple[int, int], version: int, monkeypatch: pytest.MonkeyPatch, gpu: Gpu
) -> None:
    install(monkeypatch, {module: function for module, function, _ in PACKAGES.values()})
    gpu(capability)
    backend = FlashAttention()
    assert backend.lacks(SPEC, LAYOUT) is None
    case = Case([(1, 5)], SPEC, page_size=256, head_size=64, dtype=torch.bfloat16)
    before = extension.CALLS[f"cpu.flash_{version}"]
    case.check(backend, TOLERANCE[torch.bfloat16])
    assert extension.CALLS[f"cpu.flash_{version}"] == before + 1


@pytest.mark.parametrize(
    ("modules", "lack"),
    [
        ({}, "the flash-attn package (it isn't installed)"),
        (
            {"flash_attn.cute": ModuleNotFoundError("", name="flash_attn.cute")},
            "the flash-attn package (it isn't installed)",
        ),
        (
            {"flash_attn": ModuleNotFoundError("", name="einops")},
            "a flash-attn package that works (importing flash_attn raised ModuleNotFoundError)",
        ),
        (
            {"flash_attn_interface": OSError("undefined symbol")},
            "a flash-attn package that works (importing flash_attn_interface raised OSError)",
        ),
        (
            {"flash_attn": lambda q, k, v, cu_seqlens_q: None},
            "a flash-attn package that works (flash_attn is too old: flash_attn_varlen_func has "
            "no block_table)",
        ),
    ],
    ids=["nothing", "no version 4", "no einops", "another torch", "too old"],
)
def test_the_start_up_line_says_what_is_wrong_with_the_package(
    modules: dict[str, Any], lack: str, monkeypatch: pytest.MonkeyPatch, gpu: Gpu
) -> None:
    monkeypatch.delenv("SENSORIUM_ATTENTION", raising=False)
    install(monkeypatch, modules)
    gpu((9, 0))
    assert FlashAttention().lacks(SPEC, LAYOUT) == lack
    assert f"flash lacks {lack}" in choose_attention([SPEC], LAYOUT).describe()
