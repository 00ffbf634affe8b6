"""``sensorium chat``: a conversation in the terminal, whoever answers it."""
