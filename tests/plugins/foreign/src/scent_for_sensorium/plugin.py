"""What this distribution brings. Hooks import inside, so that finding it costs nothing."""

from sensorium.plugins import hookimpl

api = 2


@hookimpl
def sensorium_media_kinds():
    from scent_for_sensorium.scent import Scent

    return [Scent]


@hookimpl
def sensorium_media_adapters():
    from scent_for_sensorium.scent import ScentAdapter

    return [ScentAdapter]
