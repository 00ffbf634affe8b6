"""Carries out batches on the device."""

from sensorium.runner.runner import Runner

__all__ = ["Runner"]
