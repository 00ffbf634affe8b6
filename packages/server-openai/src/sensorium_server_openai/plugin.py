"""What this distribution registers: `sensorium serve` and `chat`. The hook imports inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensorium.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from sensorium.plugins.command import Command

api = 2


@hookimpl
def sensorium_commands() -> list[Command]:
    """`sensorium serve` and `sensorium chat`."""
    from sensorium.plugins.command import Command
    from sensorium_server_openai.command import chat, serve

    return [
        Command("serve", serve.HELP, serve.add_arguments, serve.run),
        Command("chat", chat.HELP, chat.add_arguments, chat.run),
    ]
