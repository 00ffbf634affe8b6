"""What this distribution registers: `sensorium serve`. The hook imports inside, for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensorium.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from sensorium.plugins.command import Command

api = 2


@hookimpl
def sensorium_commands() -> list[Command]:
    """`sensorium serve`."""
    from sensorium.plugins.command import Command
    from sensorium_server_openai.command.serve import HELP, add_arguments, run

    return [Command("serve", HELP, add_arguments, run)]
