"""Types of media in prompts, under the names that vLLM's users know."""
