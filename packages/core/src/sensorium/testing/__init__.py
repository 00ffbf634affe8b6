"""Contracts that tell a plugin's author that the plugin is right.

    from sensorium.testing.kind import MediaKindContract
    from sensorium.testing.adapter import MediaAdapterContract
    from sensorium.testing.family import ModelFamilyContract

Each is a class of pytest tests: derive from it, say how your class is made and which values to
try it with, and pytest runs the rest. ``docs/testing-plugins.md`` has an example. Nothing heavy
is imported until a test runs, so that having Sensorium installed costs another project nothing.
"""
