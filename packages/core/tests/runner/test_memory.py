"""How many pages there are, and on what is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sensorium.config import EngineConfig
from sensorium.decoder_config import DecoderConfig, RopeConfig
from sensorium.errors import ConfigError
from sensorium.runner import memory
from sensorium.runner.device import choose_device, choose_dtype
from sensorium.runner.fullest_step import fullest_steps

DECODER = DecoderConfig(
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    vocab_size=96,
    norm_eps=1e-6,
    rope=RopeConfig(),
    max_positions=1000,
    dtype="float16",
)
SHAPE = memory.kv_shape(DECODER, 16, torch.float32)
PAGE_BYTES = 2 * 2 * 16 * 2 * 8 * 4


def config(**options: Any) -> EngineConfig:
    return EngineConfig.from_options(model="m", **options)


def test_a_page_holds_keys_and_values_of_all_layers() -> None:
    assert SHAPE.page_bytes == PAGE_BYTES
    assert memory.kv_shape(DECODER, 4, torch.bfloat16).page_bytes == PAGE_BYTES // 8


def test_the_cpu_has_room_for_every_sequences_context() -> None:
    assert memory.cpu_kv_bytes(config(max_num_seqs=3), SHAPE, 100) == 3 * 7 * PAGE_BYTES
    assert memory.cpu_kv_bytes(config(max_num_seqs=10**9), SHAPE, 100) <= 4 * 2**30
    assert memory.cpu_kv_bytes(config(kv_cache_memory_bytes=12345), SHAPE, 100) == 12345


def test_the_context_is_the_checkpoints_unless_given() -> None:
    assert memory.wanted_context(config(), DECODER) == 1000
    assert memory.wanted_context(config(max_model_len=77), DECODER) == 77
    with pytest.raises(ConfigError, match=r"max_model_len is 1001; .* at most 1000"):
        memory.wanted_context(config(max_model_len=1001), DECODER)


def test_a_context_that_doesnt_fit_is_cut_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert memory.fit(config(), SHAPE, 70 * PAGE_BYTES + 1, 1000) == (70, 1000)
    assert not caplog.records
    assert memory.fit(config(), SHAPE, 5 * PAGE_BYTES, 1000) == (5, 80)
    assert "cut from 1000 to 80 tokens" in caplog.text
    with pytest.raises(ConfigError, match=r"holds 80 tokens .* fewer than the context of 100"):
        memory.fit(config(max_model_len=100), SHAPE, 5 * PAGE_BYTES, 100)
    with pytest.raises(ConfigError, match="holds 0 tokens"):
        memory.fit(config(), SHAPE, PAGE_BYTES - 1, 1000)


@pytest.mark.parametrize("chunked", [True, False])
def test_the_fullest_steps_use_all_that_is_allowed(chunked: bool) -> None:
    options = config(
        max_num_batched_tokens=64, max_num_seqs=5, enable_chunked_prefill=chunked, page_size=16
    )
    (requests, [prefill]), (many, decodes) = fullest_steps(options, 1000)
    assert (prefill.start, prefill.stop) == (936 if chunked else 0, 1000)
    assert len(requests[0].token_ids) == 1000
    assert [(c.start, c.stop, c.num_rows) for c in decodes] == [(999, 1000, 1)] * 5
    assert [c.request_id for c in decodes] == [r.request_id for r in many]
    assert {page for chunk in (prefill, *decodes) for page in chunk.pages} == {0}
    assert all(len(chunk.pages) == 63 for chunk in (prefill, *decodes))


def device_bytes(
    monkeypatch: pytest.MonkeyPatch, *, free: int, own: int, peak: int, **options: Any
) -> int:
    """On a GPU of 1000 bytes; ``own``: what torch holds of it. 30 embeddings, 20 for graphs."""
    cuda = {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "empty_cache": None,
        "max_memory_allocated": peak,
        "memory_reserved": own,
        "mem_get_info": (free, 1000),
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    return memory.device_kv_bytes(config(**options), torch.device("cuda"), 30, lambda: 20)


def test_an_accelerators_share_is_the_engines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"free": 800, "own": 200, "peak": 250}
    assert device_bytes(monkeypatch, **alone) == 900 - 250 - 20 - 30
    beside = {"free": 300, "own": 200, "peak": 250}  # others hold 500
    half = device_bytes(monkeypatch, **beside, gpu_memory_utilization=0.4)
    assert half == 400 - 250 - 20 - 30
    assert device_bytes(monkeypatch, **beside) == 475 - 250 - 20 - 30
    assert device_bytes(monkeypatch, **beside, kv_cache_memory_bytes=7) == 7
    with pytest.raises(ConfigError, match=r"may take 300 \(others hold 500\); .* take 270"):
        device_bytes(monkeypatch, **beside, gpu_memory_utilization=0.3)


# --- device and dtype -------------------------------------------------------------------


def test_devices_by_name() -> None:
    assert choose_device(config(device="cpu")).type == "cpu"
    available = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device(config()).type == available
    with pytest.raises(ConfigError, match="device is 'tpu'; allowed are auto, cpu, cuda"):
        choose_device(config(device="tpu"))
    with pytest.raises(ConfigError, match="device is 'cuda:x'"):
        choose_device(config(device="cuda:x"))
    with pytest.raises(ConfigError, match=r"device is 'cuda:99'; torch sees \d+ CUDA devices"):
        choose_device(config(device="cuda:99"))


def test_dtypes_by_name() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype(config(), DECODER, cpu) == torch.float32
    assert choose_dtype(config(), DECODER, cuda) == torch.float16
    assert choose_dtype(config(dtype="half"), DECODER, cpu) == torch.float16
    assert choose_dtype(config(dtype="bfloat16"), DECODER, cpu) == torch.bfloat16
    assert choose_dtype(config(dtype="float"), DECODER, cuda) == torch.float32


def test_a_checkpoint_in_a_strange_dtype_needs_a_choice() -> None:
    strange = DecoderConfig(
        **{name: getattr(DECODER, name) for name in DECODER.__slots__ if name != "dtype"},
        dtype="float8_e4m3fn",
    )
    with pytest.raises(ConfigError, match="dtype is 'float8_e4m3fn'; give dtype="):
        choose_dtype(config(), strange, torch.device("cpu"))
