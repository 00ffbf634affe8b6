"""Tool calls: found in an answer's text, streamed or whole, and asked for by ``tool_choice``."""
