"""Scents for Sensorium."""
