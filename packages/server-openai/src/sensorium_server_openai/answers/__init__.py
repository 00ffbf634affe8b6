"""From the engine's outputs to what clients read: JSON objects, and chunks of a stream."""
