"""What this distribution registers: `sensorium demo`. The hook imports inside, for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensorium.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from sensorium.plugins.command import Command

api = 2


@hookimpl
def sensorium_commands() -> list[Command]:
    """`sensorium demo`."""
    from sensorium.plugins.command import Command
    from sensorium_tiny_models import demo

    return [Command("demo", demo.HELP, demo.add_arguments, demo.run)]
