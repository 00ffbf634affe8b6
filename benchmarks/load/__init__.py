"""A server in a process of its own, and a client that loads it from another."""
