"""Decoders: their layers, the families that read their checkpoints, and loading."""
