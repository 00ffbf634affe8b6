"""What this distribution registers: `sensorium demo`, and the models by their names.

The hooks import inside, for speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
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


@hookimpl
def sensorium_models() -> Mapping[str, Path]:
    """tiny-vl and tiny-audio."""
    from sensorium_tiny_models import model_path, sound_model_path

    return {"tiny-vl": model_path(), "tiny-audio": sound_model_path()}
