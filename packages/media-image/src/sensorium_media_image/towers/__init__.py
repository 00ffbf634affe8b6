"""Encoders that turn pixels into embeddings, on core's layers."""
