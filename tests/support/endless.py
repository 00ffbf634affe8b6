"""Answers that are still being generated whatever a test does meanwhile, on the fastest machine.

They take some ten seconds or more; a test interrupts, aborts or kills them within one.
"""

from __future__ import annotations

from typing import Any

from sensorium import SamplingParams

ENDLESS = SamplingParams(temperature=0.0, max_tokens=60_000, ignore_eos=True)
#: For the engine: a context that holds one, and pages enough.
ROOM: dict[str, Any] = {"max_model_len": 65_536, "kv_cache_memory_bytes": 2**28}
