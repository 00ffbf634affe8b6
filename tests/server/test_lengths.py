"""How long an answer may be where the request doesn't say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from served import served
from tiny_checkpoints import make_llama, write_json

from sensorium import AsyncEngine
from sensorium_server_openai.engine_port import EnginePort

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}


def test_the_checkpoints_generation_config_bounds_it(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    write_json(folder / "generation_config.json", {"eos_token_id": 2, "max_new_tokens": 5})
    lengths = {}
    for generation_config in ("auto", "sensorium"):
        with (
            AsyncEngine(
                str(folder), max_model_len=64, generation_config=generation_config
            ) as engine,
            served(EnginePort.of(engine, str(folder))) as server,
        ):

            def length(**more: Any) -> int:
                found = server.post("/v1/chat/completions", {**ASK, **more})
                tokens: int = found.json()["usage"]["completion_tokens"]
                return tokens

            lengths[generation_config] = [length(), length(max_tokens=7), length(min_tokens=6)]
            prompt = server.post("/tokenize", {"messages": ASK["messages"]}).json()["count"]
    assert lengths["auto"] == [5, 7, 6]
    assert lengths["sensorium"] == [64 - prompt, 7, 64 - prompt]
