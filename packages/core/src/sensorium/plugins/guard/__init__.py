"""The one door to plugins' objects: core calls them through these wrappers and in no other way.

A wrapper has the methods of what it wraps. Whatever a plugin's code raises leaves it as an error of
our own that names distribution, class and call, and whatever it returns has been held against the
docstring of the method.
"""

from sensorium.plugins.guard.adapter import GuardedAdapter
from sensorium.plugins.guard.door import class_of, inner_of
from sensorium.plugins.guard.encoder import GuardedEncoder, guarded_spec
from sensorium.plugins.guard.family import GuardedFamily
from sensorium.plugins.guard.kind import GuardedKind

__all__ = [
    "GuardedAdapter",
    "GuardedEncoder",
    "GuardedFamily",
    "GuardedKind",
    "class_of",
    "guarded_spec",
    "inner_of",
]
