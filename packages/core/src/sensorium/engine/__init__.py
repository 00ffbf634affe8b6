"""The engine: assembly, admission, the step loop, and the clients that reach it."""
