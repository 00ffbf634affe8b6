"""From prompts and conversations to what the engine takes."""
