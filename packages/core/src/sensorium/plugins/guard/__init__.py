"""Wrappers around plugins' objects; core calls plugins only through them.

A wrapper has the methods of what it wraps. It turns any exception of the plugin's code into an
error of ``sensorium.errors`` that names distribution, class and call, and checks every result
against the method's docstring.
"""

from sensorium.plugins.guard.adapter import NUMBERS_LOOKED_FOR, GuardedAdapter
from sensorium.plugins.guard.door import class_of, inner_of
from sensorium.plugins.guard.encoder import GuardedEncoder, guarded_spec
from sensorium.plugins.guard.family import GuardedFamily
from sensorium.plugins.guard.kind import GuardedKind

__all__ = [
    "NUMBERS_LOOKED_FOR",
    "GuardedAdapter",
    "GuardedEncoder",
    "GuardedFamily",
    "GuardedKind",
    "class_of",
    "guarded_spec",
    "inner_of",
]
