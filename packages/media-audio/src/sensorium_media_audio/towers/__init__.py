"""What turns spectrograms into embeddings."""
