"""What clients send, as pydantic models, and the shapes of what they get."""
