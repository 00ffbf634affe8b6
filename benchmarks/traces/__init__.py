"""Traces of torch's profiler: what goes into one, and what is read out of it."""
