"""How model families take video."""

from sensorium.plugins.adapter import MediaAdapter

ADAPTERS: tuple[type[MediaAdapter], ...] = ()
