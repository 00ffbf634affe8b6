"""The command line. ``main`` is the entry point of the script ``sensorium``."""

from sensorium.cli.app import main

__all__ = ["main"]
