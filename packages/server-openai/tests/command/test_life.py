"""The address of a server, before and after the model is loaded; and what the banner says."""

from __future__ import annotations

from contextlib import closing

import pytest
from scripted_engine import ScriptedEngine

from sensorium import ConfigError
from sensorium.plugins.discovery import discover
from sensorium_server_openai import ServerOptions
from sensorium_server_openai.command.banner import banner
from sensorium_server_openai.command.life import address, listen, take
from sensorium_server_openai.command.settings import Settings


def test_a_port_in_use_is_told_before_the_model_is_loaded() -> None:
    with closing(listen("127.0.0.1", 0)) as first:
        take(first)
        port = first.getsockname()[1]
        assert address(first, {}) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=f"port {port}: Address already in use"):
            listen("127.0.0.1", port)


def test_of_two_servers_that_start_at_once_one_is_told() -> None:
    """While neither listens, the system lets both have the address."""
    with closing(listen("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with closing(listen("127.0.0.1", port)) as second:
            take(second)
            with pytest.raises(ConfigError, match="Address already in use"):
                take(first)


class Described(ScriptedEngine):
    """Says where it runs."""

    def describe(self) -> list[tuple[str, str]]:
        """See ``EnginePort.describe``."""
        return [("model", "scripted")]


def test_the_banner_names_plugins_limits_and_the_address() -> None:
    keys = ("secret",)
    options = ServerOptions(served_model_names=("a", "b"), api_keys=keys, root_path="/v")
    off = next(s.distribution for s in discover().statuses if s.brings[0].startswith("kind:"))
    settings = Settings("m", {"disabled_plugins": (off,)}, options)
    lines = list(banner(Described(), settings, "http://h:1"))  # type: ignore[arg-type]
    said = "\n".join(lines)
    assert lines[0].endswith("serves a, b")
    [plugins] = [line for line in lines if "plugins:" in line]
    assert "sensorium-core " in plugins
    assert off not in plugins
    assert "64 MiB a body" in said
    assert "API keys:  1" in said
    assert "secret" not in said
    assert "http://h:1/v " in said
