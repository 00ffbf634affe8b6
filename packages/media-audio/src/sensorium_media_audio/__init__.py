"""Audio for Sensorium: the audio kind, and the model families whose towers hear."""
