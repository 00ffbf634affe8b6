"""The engine in a process of its own: starting it, the socket, messages, and shared memory."""
